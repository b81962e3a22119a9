//! Messages in gRPC frames, with buffers of the right size.
//!
//! The framework's own codec starts every message in 8 KiB and lets the buffer grow by doubling:
//! too much for the answer to a put, and ten copies for a long list.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// What a buffer starts with: most requests and answers fit.
const START_BYTES: usize = 1 << 10;

/// Messages of a stream that are there at once travel together up to this size.
const TOGETHER_BYTES: usize = 32 << 10;

/// Sends `T`, receives `U`.
#[derive(Debug, Clone)]
pub(crate) struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(START_BYTES, TOGETHER_BYTES)
}

/// Half of [`MessageCodec`].
#[derive(Debug)]
pub(crate) struct MessageEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Half of [`MessageCodec`].
#[derive(Debug)]
pub(crate) struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        match U::decode(buffer) {
            Ok(message) => Ok(Some(message)),
            // The framework's codec says it in these words and with this code.
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
