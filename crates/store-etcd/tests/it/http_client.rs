//! HTTP/1.1 as plain clients speak it.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{PATIENCE, soon};

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

/// An answer that is still coming. Dropped, it closes the connection.
pub(crate) struct Stream {
    pub(crate) status: u16,
    body: Incoming,
    text: String,
    connection: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Stream {
    /// The next line; `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let line = line.to_owned();
                self.text = rest.to_owned();
                return Some(line);
            }
            let data = soon(self.body.frame()).await?.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    async fn rest(&mut self) -> String {
        while let Some(frame) = soon(self.body.frame()).await {
            if let Ok(data) = frame.unwrap().into_data() {
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
        std::mem::take(&mut self.text)
    }
}

/// Sends a request; its answer as it comes.
pub(crate) async fn open(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (http::HeaderMap, Stream) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(async move {
        // How a connection ends is seen in what was read from it.
        let _ = connection.await;
    });
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let answer = answer.unwrap_or_else(|_| panic!("{address} does not answer {path} {body}"));
    let (head, body) = answer.unwrap().into_parts();
    let stream = Stream {
        status: head.status.as_u16(),
        body,
        text: String::new(),
        connection,
    };
    (head.headers, stream)
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let (headers, mut stream) = open(address, method, path, headers, body).await;
    Answer {
        status: stream.status,
        headers,
        body: stream.rest().await,
    }
}

pub(crate) async fn get(address: &str, path: &str) -> Answer {
    send(address, "GET", path, &[], "").await
}

pub(crate) async fn post(address: &str, path: &str, body: &str) -> Answer {
    send(address, "POST", path, &[], body).await
}
