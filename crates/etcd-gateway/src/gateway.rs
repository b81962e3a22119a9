//! One HTTP request in, one gRPC call to the service in the same process, one HTTP answer out.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use crate::frames::{Frames, frame};
use crate::json;
use crate::messages::{Messages, ReadError};
use crate::status::{INVALID_ARGUMENT, RESOURCE_EXHAUSTED, Status, UNKNOWN};

/// What goes wrong in a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of bytes.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Headers of HTTP requests that begin like this become metadata of the call, without it.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message as JSON.
    pub json_bytes: usize,
}

/// The given routes do not fit the given descriptors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The descriptors cannot be read.
    #[error("the descriptors cannot be read: {0}")]
    Descriptors(String),
    /// A route leads to a call that the descriptors do not have.
    #[error("there is no call {0}")]
    NoSuchCall(String),
    /// A message holds a map, which this crate does not translate.
    #[error("the field {0} is a map")]
    Map(String),
}

/// Paths, and the calls behind them.
#[derive(Debug)]
pub struct Gateway {
    routes: BTreeMap<&'static str, Route>,
}

#[derive(Debug, Clone)]
struct Route {
    call: &'static str,
    input: MessageDescriptor,
    output: MessageDescriptor,
    streams_in: bool,
    streams_out: bool,
}

impl Gateway {
    /// A gateway for these routes: HTTP path and gRPC path (`/package.Service/Method`).
    /// `descriptors` is an encoded `FileDescriptorSet`.
    pub fn new(
        descriptors: &[u8],
        routes: &[(&'static str, &'static str)],
    ) -> Result<Self, SetupError> {
        let pool = DescriptorPool::decode(descriptors)
            .map_err(|error| SetupError::Descriptors(error.to_string()))?;
        for message in pool.all_messages() {
            if let Some(field) = message.fields().find(|field| field.is_map()) {
                return Err(SetupError::Map(field.full_name().to_owned()));
            }
        }
        let mut table = BTreeMap::new();
        for (path, call) in routes {
            let missing = || SetupError::NoSuchCall((*call).to_owned());
            let (service, method) = call
                .strip_prefix('/')
                .and_then(|call| call.split_once('/'))
                .ok_or_else(missing)?;
            let service = pool.get_service_by_name(service).ok_or_else(missing)?;
            let method = service
                .methods()
                .find(|candidate| candidate.name() == method)
                .ok_or_else(missing)?;
            let route = Route {
                call,
                input: method.input(),
                output: method.output(),
                streams_in: method.is_client_streaming(),
                streams_out: method.is_server_streaming(),
            };
            table.insert(*path, route);
        }
        Ok(Self { routes: table })
    }

    /// Answers a request for `path`, by means of `serve`, which answers gRPC requests.
    pub async fn answer<B, S, F, R>(
        &self,
        path: &str,
        request: Request<B>,
        limits: Limits,
        serve: S,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
        S: FnOnce(Request<Body>) -> F,
        F: Future<Output = Response<R>>,
        R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: std::fmt::Display,
    {
        let Some(route) = self.routes.get(path) else {
            return text(StatusCode::NOT_FOUND, "Not Found\n");
        };
        if request.method() != Method::POST {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            let post = HeaderValue::from_static("POST");
            response.headers_mut().insert(ALLOW, post);
            return response;
        }
        let (head, body) = request.into_parts();
        let messages = Messages::new(body, limits.json_bytes);
        let body = match route.body(messages).await {
            Ok(body) => body,
            Err(status) => return refused(&status),
        };
        let mut call = Request::new(body);
        *call.method_mut() = Method::POST;
        *call.uri_mut() = http::Uri::from_static(route.call);
        *call.version_mut() = http::Version::HTTP_2;
        *call.extensions_mut() = head.extensions;
        metadata(&head.headers, call.headers_mut());
        let (head, body) = serve(call).await.into_parts();
        let frames = Frames::new(&head.headers, body);
        match route.streams_out {
            true => route.lines(frames).await,
            false => route.single(frames).await,
        }
    }
}

impl Route {
    /// The messages of a request.
    async fn body<B>(&self, mut messages: Messages<B>) -> Result<Body, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::fmt::Display,
    {
        let first = messages.next().await.map_err(|error| unreadable(&error))?;
        if !self.streams_in {
            // No body at all is a message without fields.
            let message = match first {
                Some(text) => self.decode(&text, INVALID_ARGUMENT)?,
                None => DynamicMessage::new(self.input.clone()),
            };
            return Ok(whole(frame(&message)));
        }
        let Some(first) = first else {
            return Ok(whole(Bytes::new()));
        };
        let first = frame(&self.decode(&first, UNKNOWN)?);
        // What cannot be read later ends the requests; what was asked before is answered.
        let rest = stream::unfold((messages, self.clone()), |(mut messages, route)| async {
            let text = messages.next().await.ok()??;
            let message = route.decode(&text, UNKNOWN).ok()?;
            Some((frame(&message), (messages, route)))
        });
        let frames = stream::iter([first]).chain(rest);
        Ok(streamed(frames))
    }

    fn decode(&self, text: &[u8], code: u32) -> Result<DynamicMessage, Status> {
        json::decode(&self.input, text).map_err(|error| Status::new(code, error.to_string()))
    }

    fn encode(&self, message: Bytes, out: &mut Vec<u8>) -> Result<(), Status> {
        let message = DynamicMessage::decode(self.output.clone(), message)
            .map_err(|error| Status::internal(error.to_string()))?;
        json::encode(&message, out);
        Ok(())
    }

    /// The answer to a call with one answer.
    async fn single<R>(&self, mut frames: Frames<R>) -> Response<Body>
    where
        R: http_body::Body<Data = Bytes> + Unpin,
        R::Error: std::fmt::Display,
    {
        let mut out = Vec::new();
        let outcome = async {
            let message = frames.next().await?;
            let message = message.ok_or_else(|| Status::internal("the answer holds no message"))?;
            self.encode(message, &mut out)?;
            // The status behind the message.
            frames.next().await.map(drop)
        };
        match outcome.await {
            Ok(()) => answered(whole(out.into())),
            Err(status) => refused(&status),
        }
    }

    /// The answer to a call with many: one line each. Begins with the first of them.
    async fn lines<R>(&self, mut frames: Frames<R>) -> Response<Body>
    where
        R: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: std::fmt::Display,
    {
        let first = self.line(&mut frames).await;
        let status = match &first {
            Some(Err(status)) => status.http(),
            Some(Ok(_)) | None => StatusCode::OK,
        };
        let goes_on = matches!(first, Some(Ok(_)));
        let state = goes_on.then(|| (frames, self.clone()));
        let rest = stream::unfold(state, |state| async {
            let (mut frames, route) = state?;
            match route.line(&mut frames).await? {
                Ok(line) => Some((line, Some((frames, route)))),
                Err(status) => Some((status.line().into(), None)),
            }
        });
        let first = first.map(|line| line.unwrap_or_else(|status| status.line().into()));
        let mut response = answered(streamed(stream::iter(first).chain(rest)));
        *response.status_mut() = status;
        response
    }

    async fn line<R>(&self, frames: &mut Frames<R>) -> Option<Result<Bytes, Status>>
    where
        R: http_body::Body<Data = Bytes> + Unpin,
        R::Error: std::fmt::Display,
    {
        let message = match frames.next().await {
            Ok(message) => message?,
            Err(status) => return Some(Err(status)),
        };
        let mut out = b"{\"result\":".to_vec();
        if let Err(status) = self.encode(message, &mut out) {
            return Some(Err(status));
        }
        out.extend_from_slice(b"}\n");
        Some(Ok(out.into()))
    }
}

/// What the caller tells of itself goes along.
fn metadata(from: &HeaderMap, to: &mut HeaderMap) {
    let grpc = HeaderValue::from_static("application/grpc");
    for (name, value) in from {
        let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) else {
            continue;
        };
        // What gRPC itself says in headers is not for the caller to say.
        let reserved = name.starts_with("grpc-") || name == CONTENT_TYPE.as_str() || name == "te";
        if let (Ok(name), false) = (HeaderName::from_bytes(name.as_bytes()), reserved) {
            to.append(name, value.clone());
        }
    }
    if let Some(value) = from.get(AUTHORIZATION) {
        to.insert(AUTHORIZATION, value.clone());
    }
    to.insert(CONTENT_TYPE, grpc);
    to.insert(http::header::TE, HeaderValue::from_static("trailers"));
}

fn unreadable(error: &ReadError) -> Status {
    match error {
        ReadError::Broken(why) => Status::new(INVALID_ARGUMENT, why.as_str()),
        ReadError::TooLong { limit_bytes } => Status::new(
            RESOURCE_EXHAUSTED,
            format!("the JSON of a message is longer than {limit_bytes} bytes"),
        ),
    }
}

fn answered(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        HeaderName::from_static("grpc-metadata-content-type"),
        HeaderValue::from_static("application/grpc"),
    );
    response
}

fn refused(status: &Status) -> Response<Body> {
    let mut response = Response::new(whole(status.body().into()));
    *response.status_mut() = status.http();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn streamed(pieces: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Body {
    let pieces: Pin<Box<dyn futures_util::Stream<Item = Bytes> + Send>> = Box::pin(pieces);
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}
