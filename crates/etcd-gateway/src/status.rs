//! What a service answers when it refuses, as HTTP and JSON have it.

use http::{HeaderMap, StatusCode};

use crate::json;

/// A gRPC status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

pub(crate) const UNKNOWN: u32 = 2;
pub(crate) const INVALID_ARGUMENT: u32 = 3;
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;

impl Status {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(INTERNAL, message)
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?;
        let code = code.to_str().ok().and_then(|code| code.parse().ok());
        let message = headers.get("grpc-message");
        Some(Self {
            code: code.unwrap_or(UNKNOWN),
            message: message.map_or_else(String::new, |text| percent_decoded(text.as_bytes())),
        })
    }

    /// The HTTP status that fits.
    pub(crate) fn http(&self) -> StatusCode {
        match self.code {
            0 => StatusCode::OK,
            1 => StatusCode::REQUEST_TIMEOUT,
            INVALID_ARGUMENT | 9 | 11 => StatusCode::BAD_REQUEST,
            4 => StatusCode::GATEWAY_TIMEOUT,
            5 => StatusCode::NOT_FOUND,
            6 | 10 => StatusCode::CONFLICT,
            7 => StatusCode::FORBIDDEN,
            16 => StatusCode::UNAUTHORIZED,
            RESOURCE_EXHAUSTED => StatusCode::TOO_MANY_REQUESTS,
            12 => StatusCode::NOT_IMPLEMENTED,
            14 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The body of an answer that is nothing else.
    pub(crate) fn body(&self) -> Vec<u8> {
        let mut out = b"{\"error\":".to_vec();
        json::string(&self.message, &mut out);
        out.extend_from_slice(format!(",\"code\":{},\"message\":", self.code).as_bytes());
        json::string(&self.message, &mut out);
        out.push(b'}');
        out
    }

    /// The last line of a stream.
    pub(crate) fn line(&self) -> Vec<u8> {
        let http = self.http();
        let mut out = format!(
            "{{\"error\":{{\"grpc_code\":{},\"http_code\":{},\"message\":",
            self.code,
            http.as_u16()
        )
        .into_bytes();
        json::string(&self.message, &mut out);
        out.extend_from_slice(b",\"http_status\":");
        json::string(http.canonical_reason().unwrap_or_default(), &mut out);
        out.extend_from_slice(b"}}\n");
        out
    }
}

fn percent_decoded(text: &[u8]) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                let (high, low) = (digit(*high), digit(*low));
                out.push(high.unwrap_or(0) << 4 | low.unwrap_or(0));
                rest = tail;
            }
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_from_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(Status::from_headers(&headers), None);
        headers.insert("grpc-status", "5".parse().expect("a header"));
        headers.insert(
            "grpc-message",
            "no%20such%20%C3%A4%".parse().expect("a header"),
        );
        assert_eq!(
            Status::from_headers(&headers),
            Some(Status::new(5, "no such ä%"))
        );
        headers.insert("grpc-status", "five".parse().expect("a header"));
        assert_eq!(
            Status::from_headers(&headers).map(|s| s.code),
            Some(UNKNOWN)
        );
    }

    #[test]
    fn texts_are_quoted() {
        let status = Status::new(9, "a \"b\"");
        assert_eq!(
            status.body(),
            br#"{"error":"a \"b\"","code":9,"message":"a \"b\""}"#
        );
        assert_eq!(
            status.line(),
            b"{\"error\":{\"grpc_code\":9,\"http_code\":400,\"message\":\"a \\\"b\\\"\",\"http_status\":\"Bad Request\"}}\n"
        );
    }
}
