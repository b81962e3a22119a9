//! What a member counts beside its state.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::http::CHECKS;
use crate::meter::{Counter, Gauge, Histogram};
use crate::service::{Kind, RPCS, RpcId};

/// Versions of client libraries that are told apart; whatever a client says beyond that is
/// counted together.
const MAX_CLIENT_VERSIONS: usize = 16;
const MAX_CLIENT_VERSION_BYTES: usize = 64;

/// gRPC has the codes 0 to 16.
pub(crate) const CODES: usize = 17;

#[derive(Debug)]
pub(crate) struct Metrics {
    rpcs: Vec<RpcMetrics>,
    pub(crate) clients: ClientVersions,
    pub(crate) leader_changes: Counter,
    pub(crate) proposals_pending: Gauge,
    pub(crate) proposals_failed: Counter,
    pub(crate) read_indexes_failed: Counter,
    pub(crate) watchers: Gauge,
    pub(crate) watch_streams: Gauge,
    pub(crate) events: Counter,
    pub(crate) leases_renewed: Counter,
    pub(crate) leases_expired: Counter,
    pub(crate) log_sync: Histogram,
    pub(crate) state_sync: Histogram,
    pub(crate) health: HealthMetrics,
}

/// One row for each call of [`RPCS`].
#[derive(Debug, Default)]
pub(crate) struct RpcMetrics {
    pub(crate) started: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    /// By code.
    pub(crate) handled: [Counter; CODES],
}

/// Answers to health questions.
#[derive(Debug, Default)]
pub(crate) struct HealthMetrics {
    pub(crate) successes: Counter,
    pub(crate) failures: Counter,
    /// One row for each of [`CHECKS`].
    pub(crate) checks: [CheckMetrics; CHECKS.len()],
}

#[derive(Debug, Default)]
pub(crate) struct CheckMetrics {
    pub(crate) last: Gauge,
    pub(crate) successes: Counter,
    pub(crate) errors: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            rpcs: RPCS.iter().map(|_| RpcMetrics::default()).collect(),
            clients: ClientVersions::default(),
            leader_changes: Counter::default(),
            proposals_pending: Gauge::default(),
            proposals_failed: Counter::default(),
            read_indexes_failed: Counter::default(),
            watchers: Gauge::default(),
            watch_streams: Gauge::default(),
            events: Counter::default(),
            leases_renewed: Counter::default(),
            leases_expired: Counter::default(),
            log_sync: Histogram::default(),
            state_sync: Histogram::default(),
            health: HealthMetrics::default(),
        })
    }

    pub(crate) fn rpc(&self, id: RpcId) -> &RpcMetrics {
        &self.rpcs[id.0]
    }

    /// The rows, in the order of [`RPCS`].
    pub(crate) fn rpcs(&self) -> &[RpcMetrics] {
        &self.rpcs
    }

    /// A call begins.
    pub(crate) fn start(self: &Arc<Self>, id: RpcId) -> Call {
        let row = self.rpc(id);
        row.started.increment();
        if id.rpc().kind != Kind::BidiStream {
            row.received.increment();
        }
        Call {
            metrics: self.clone(),
            id,
            handled: false,
        }
    }
}

/// A call under way. Dropped before its end, it was given up by the client.
#[derive(Debug)]
pub(crate) struct Call {
    metrics: Arc<Metrics>,
    id: RpcId,
    handled: bool,
}

impl Call {
    /// Counts an answer: at once if it is whole, otherwise as it goes out.
    pub(crate) fn answered(mut self, response: http::Response<Body>) -> http::Response<Body> {
        // An answer without messages has its status among the headers.
        if let Some(status) = response.headers().get(Status::GRPC_STATUS) {
            self.handled(Code::from_bytes(status.as_bytes()));
            return response;
        }
        if self.id.rpc().kind == Kind::Unary {
            self.metrics.rpc(self.id).sent.increment();
            self.handled(Code::Ok);
            return response;
        }
        response.map(|body| Body::new(Counted { body, call: self }))
    }

    fn handled(&mut self, code: Code) {
        self.handled = true;
        let codes = &self.metrics.rpc(self.id).handled;
        codes[code as usize].increment();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.handled {
            self.handled(Code::Cancelled);
        }
    }
}

/// A stream of responses, counted as it is read.
struct Counted {
    body: Body,
    call: Call,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                self.call.metrics.rpc(self.call.id).sent.add(messages(data));
            } else if let Some(status) = frame
                .trailers_ref()
                .and_then(|trailers| trailers.get(Status::GRPC_STATUS))
            {
                self.call.handled(Code::from_bytes(status.as_bytes()));
            }
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// How many messages a piece of a body holds; the framework never cuts one in two.
fn messages(mut data: &[u8]) -> u64 {
    let mut count = 0;
    while let [_, a, b, c, d, rest @ ..] = data {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        data = rest.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}

/// Requests by what their clients say of their version. Reads without a lock.
#[derive(Debug, Default)]
pub(crate) struct ClientVersions {
    slots: [OnceLock<ClientVersion>; MAX_CLIENT_VERSIONS],
    others: OnceLock<ClientVersion>,
}

#[derive(Debug)]
pub(crate) struct ClientVersion {
    pub(crate) version: String,
    pub(crate) unary: Counter,
    pub(crate) streams: Counter,
}

impl ClientVersion {
    fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            unary: Counter::default(),
            streams: Counter::default(),
        }
    }
}

impl ClientVersions {
    pub(crate) fn count(&self, version: &str, kind: Kind) {
        let known = self
            .slots
            .iter()
            .filter(|_| version.len() <= MAX_CLIENT_VERSION_BYTES)
            .map(|slot| slot.get_or_init(|| ClientVersion::new(version)))
            .find(|known| known.version == version);
        let client =
            known.unwrap_or_else(|| self.others.get_or_init(|| ClientVersion::new("other")));
        match kind {
            Kind::Unary => client.unary.increment(),
            Kind::ServerStream | Kind::BidiStream => client.streams.increment(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ClientVersion> {
        self.slots
            .iter()
            .chain([&self.others])
            .filter_map(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_the_page_grow_without_end() {
        let clients = ClientVersions::default();
        for number in 0..100 {
            clients.count(&format!("3.5.{number}"), Kind::Unary);
        }
        clients.count(&"x".repeat(10_000), Kind::BidiStream);
        clients.count("3.5.0", Kind::Unary);
        let counted: Vec<_> = clients.iter().collect();
        assert_eq!(counted.len(), MAX_CLIENT_VERSIONS + 1);
        assert_eq!(counted[0].version, "3.5.0");
        assert_eq!(counted[0].unary.get(), 2);
        let others = counted[MAX_CLIENT_VERSIONS];
        assert_eq!(others.version, "other");
        assert_eq!(others.unary.get(), 100 - MAX_CLIENT_VERSIONS as u64);
        assert_eq!(others.streams.get(), 1);
    }

    #[test]
    fn messages_in_a_piece_are_counted() {
        assert_eq!(messages(b""), 0);
        assert_eq!(messages(&[0, 0, 0, 0, 0]), 1);
        assert_eq!(messages(&[0, 0, 0, 0, 2, 7, 7, 0, 0, 0, 0, 1, 7]), 2);
        assert_eq!(messages(&[0, 0, 0, 0, 9, 7]), 1);
    }

    #[test]
    fn a_call_that_is_given_up_counts_as_cancelled() {
        let metrics = Metrics::new();
        let id = RpcId(0);
        drop(metrics.start(id));
        let _ = metrics.start(id).answered(http::Response::default());
        let refused = Status::not_found("x").into_http();
        let _ = metrics.start(id).answered(refused);
        let row = metrics.rpc(id);
        assert_eq!(row.started.get(), 3);
        assert_eq!(row.handled[Code::Cancelled as usize].get(), 1);
        assert_eq!(row.handled[Code::Ok as usize].get(), 1);
        assert_eq!(row.handled[Code::NotFound as usize].get(), 1);
    }
}
