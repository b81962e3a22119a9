//! The watch service: one stream carries many watches.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::status::Refusal;
use super::watch_stream::WatchStream;
use super::{ResponseStream, requires_leader};
use crate::auth::Credentials;
use crate::engine::Engine;
use crate::limits::STREAM_BUFFER;
use crate::proto::etcdserverpb as pb;

pub(crate) struct WatchService {
    engine: Arc<Engine>,
}

impl WatchService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::watch_server::Watch for WatchService {
    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<ResponseStream<pb::WatchResponse>>, Status> {
        let requires_leader = requires_leader(&request);
        let credentials = Credentials::of(&request);
        let inbound = request.into_inner();
        let (out, responses) = mpsc::channel(STREAM_BUFFER);
        let engine = self.engine.clone();
        self.engine.tasks.spawn(async move {
            let last = tokio::select! {
                () = out.closed() => return,
                () = engine.stop.cancelled() => Err(Refusal::Stopped.into()),
                () = engine.leaderless(), if requires_leader => Err(Refusal::NoLeader.into()),
                outcome = WatchStream::new(&engine, credentials, inbound, &out).run() => outcome,
            };
            if let Err(status) = last {
                // A reader that left its queue full gets the end of the stream without it.
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}
