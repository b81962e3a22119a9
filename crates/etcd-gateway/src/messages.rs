//! JSON values one after the other in the body of a request.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

/// Why there is no next value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The body could not be read to its end.
    Broken(String),
    /// A value is longer than allowed.
    TooLong { limit_bytes: usize },
}

/// The values in a body.
pub(crate) struct Messages<B> {
    body: B,
    buffer: BytesMut,
    scanner: Scanner,
    limit_bytes: usize,
}

impl<B> Messages<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    pub(crate) fn new(body: B, limit_bytes: usize) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            scanner: Scanner::default(),
            limit_bytes,
        }
    }

    /// The next value, as it was written; it may be incomplete at the end of the body. `None`
    /// when there is none.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            let end = self.scanner.scan(&self.buffer);
            if end.unwrap_or(self.buffer.len()) - self.scanner.start > self.limit_bytes {
                let limit_bytes = self.limit_bytes;
                return Err(ReadError::TooLong { limit_bytes });
            }
            if let Some(end) = end {
                self.scanner = Scanner::default();
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            // Space between values is not kept.
            if self.scanner.start == self.buffer.len() {
                self.buffer.clear();
                self.scanner = Scanner::default();
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ReadError::Broken(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let rest = self.buffer.split();
                    self.scanner = Scanner::default();
                    return Ok(Some(rest.freeze()));
                }
            }
        }
    }
}

/// Finds the end of a value without understanding it, looking at every byte once.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes looked at.
    position: usize,
    /// Where the value begins; as far as `position` while it has not.
    start: usize,
    begun: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scanner {
    /// Where the value at the start of `text` ends, if it ends in it. `text` must begin with
    /// what was scanned before.
    fn scan(&mut self, text: &[u8]) -> Option<usize> {
        let fresh = text.get(self.position..).unwrap_or_default();
        for byte in fresh {
            let at = self.position;
            self.position += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(self.position);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let space = byte.is_ascii_whitespace();
            if !self.begun && space {
                self.start = self.position;
                continue;
            }
            let first = !std::mem::replace(&mut self.begun, true);
            match byte {
                b'{' | b'[' if self.depth == 0 && !first => return Some(at),
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.position);
                    }
                }
                b'"' => self.in_string = true,
                // A bare word ends where something else begins.
                _ if self.depth == 0 && space => return Some(at),
                _ => {}
            }
        }
        None
    }
}

impl<B> Messages<B> {
    /// Bytes read and not yet part of a value.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use std::convert::Infallible;

    async fn values(
        pieces: Vec<&'static str>,
        limit_bytes: usize,
    ) -> Vec<Result<String, ReadError>> {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let mut messages = Messages::new(StreamBody::new(stream::iter(frames)), limit_bytes);
        let mut found = Vec::new();
        loop {
            match messages.next().await {
                Ok(Some(value)) => found.push(Ok(String::from_utf8_lossy(&value).into_owned())),
                Ok(None) => {
                    assert_eq!(messages.waiting(), 0);
                    return found;
                }
                Err(error) => {
                    found.push(Err(error));
                    return found;
                }
            }
        }
    }

    fn trimmed(values: Vec<Result<String, ReadError>>) -> Vec<String> {
        let values = values.into_iter().map(|value| value.expect("a value"));
        values.map(|value| value.trim().to_owned()).collect()
    }

    #[tokio::test]
    async fn values_are_told_apart_wherever_the_pieces_are_cut() {
        let text = r#" {"a":"}\"{"}{"b":[1,{}]}
            5 "x\"y"[] null {"open": "#;
        let expected = [
            r#"{"a":"}\"{"}"#,
            r#"{"b":[1,{}]}"#,
            "5",
            r#""x\"y""#,
            "[]",
            "null",
            r#"{"open":"#,
        ];
        for cut in 0..text.len() {
            let pieces = vec![&text[..cut], &text[cut..]];
            assert_eq!(
                trimmed(values(pieces, 1000).await),
                expected,
                "cut at {cut}"
            );
        }
        assert_eq!(trimmed(values(vec![" ", "\n"], 10).await), [""; 0]);
    }

    #[tokio::test]
    async fn a_value_that_does_not_end_is_cut_off() {
        let pieces = vec!["{\"a\":\"", "0123456789", "0123456789"];
        let found = values(pieces, 20).await;
        assert_eq!(found, [Err(ReadError::TooLong { limit_bytes: 20 })]);
        // However it arrives, and whether it ends or not.
        let found = values(vec!["{\"a\":\"01234567890123\"}"], 20).await;
        assert_eq!(found, [Err(ReadError::TooLong { limit_bytes: 20 })]);
        // Space does not count.
        let pieces = vec!["                      "; 100];
        assert_eq!(values(pieces, 20).await, []);
    }
}
