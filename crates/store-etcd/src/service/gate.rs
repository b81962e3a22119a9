//! Addresses that serve gRPC only, or everything but gRPC.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use http::StatusCode;
use hyper::service::Service;
use tonic::Status;
use tonic::body::Body;

use super::front::{Front, Request, Response, is_grpc};
use super::listen::ForClient;
use crate::auth::ClientName;
use crate::config::Serves;

/// The front, or a part of it. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate {
    front: Front,
    serves: Serves,
}

impl Gate {
    pub(crate) fn new(front: Front, serves: Serves) -> Self {
        Self { front, serves }
    }

    /// The answer to what is not served here.
    fn turned_away(&self, request: &Request) -> Option<Response> {
        match (self.serves, is_grpc(request)) {
            (Serves::All, _) | (Serves::Grpc, true) | (Serves::Http, false) => None,
            (Serves::Http, true) => {
                Some(Status::unimplemented("this address serves HTTP only").into_http())
            }
            (Serves::Grpc, false) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                Some(response)
            }
        }
    }
}

impl ForClient for Gate {
    fn for_client(&self, name: Option<ClientName>) -> Self {
        Self::new(self.front.for_client(name), self.serves)
    }
}

impl Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request) -> Self::Future {
        match self.turned_away(&request) {
            Some(response) => Box::pin(std::future::ready(Ok(response))),
            None => self.front.call(request),
        }
    }
}
