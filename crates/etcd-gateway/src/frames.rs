//! Messages as they lie in the body of a gRPC request or response: a flag, a length, and the
//! bytes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::DynamicMessage;

use crate::status::Status;

const HEAD_BYTES: usize = 5;

/// One message with its head.
pub(crate) fn frame(message: &DynamicMessage) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + body.len());
    frame.put_u8(0);
    // Requests are limited to far less than what would not fit.
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&body);
    frame.freeze()
}

/// The messages in the body of a response, and the status at its end.
pub(crate) struct Frames<R> {
    body: R,
    buffer: BytesMut,
    /// From the headers, for an answer without messages; else from the trailers.
    status: Option<Status>,
}

impl<R> Frames<R>
where
    R: http_body::Body<Data = Bytes> + Unpin,
    R::Error: std::fmt::Display,
{
    pub(crate) fn new(headers: &HeaderMap, body: R) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            status: Status::from_headers(headers),
        }
    }

    /// The next message; `None` at an end without error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.cut()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            self.status = Status::from_headers(trailers);
                        }
                    }
                },
                Some(Err(error)) => return Err(Status::internal(error.to_string())),
                None => {
                    return match self.status.take() {
                        Some(status) if status.code != 0 => Err(status),
                        Some(_) => Ok(None),
                        None => Err(Status::internal("the answer ended without a status")),
                    };
                }
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let [flag, a, b, c, d, ..] = *self.buffer else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(Status::internal("the answer is compressed"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if self.buffer.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}
