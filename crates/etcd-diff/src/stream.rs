//! A watch stream of one side: requests out, and what came in, sorted by watch.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::{etcdserverpb as pb, mvccpb};

use crate::answer;
use crate::names::Names;

/// The id of messages that belong to the whole stream.
pub(crate) const STREAM_WIDE: i64 = -1;

/// The id of a watch that is only there to know that everything before it was handled.
const MARKER: i64 = i64::MAX - 7;

/// Something a watch delivered. Batches are taken apart: how revisions are grouped depends on
/// whether the watch was catching up at that moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    Event(Box<mvccpb::Event>),
    Canceled(pb::WatchResponse),
    Progress(i64),
}

pub(crate) struct WatchSide {
    requests: Option<mpsc::UnboundedSender<pb::WatchRequest>>,
    incoming: mpsc::UnboundedReceiver<Result<pb::WatchResponse, Status>>,
    seen: BTreeMap<i64, Vec<Seen>>,
    end: Option<(Code, String)>,
    /// The watch whose fragments are arriving.
    fragmented: Option<i64>,
    /// Promises that do not need the other side to be checked.
    broken: Vec<String>,
}

impl WatchSide {
    pub(crate) fn open(client: &Client) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut watch = client.watch();
        // In a task: etcd sends the response's headers with the first message only.
        tokio::spawn(async move {
            let outcome = watch.watch(UnboundedReceiverStream::new(receiver)).await;
            let mut responses = match outcome {
                Ok(response) => response.into_inner(),
                Err(status) => {
                    let _ = sender.send(Err(status));
                    return;
                }
            };
            loop {
                let message = match responses.message().await {
                    Ok(Some(response)) => Ok(response),
                    Ok(None) => Err(Status::ok("")),
                    Err(status) => Err(status),
                };
                let last = message.is_err();
                if sender.send(message).is_err() || last {
                    return;
                }
            }
        });
        Self {
            requests: Some(requests),
            incoming,
            seen: BTreeMap::new(),
            end: None,
            fragmented: None,
            broken: Vec::new(),
        }
    }

    pub(crate) fn send(&self, request: Option<pb::watch_request::RequestUnion>) {
        if let Some(requests) = &self.requests {
            // A stream that ended shows in `end`.
            let _ = requests.send(pb::WatchRequest {
                request_union: request,
            });
        }
    }

    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Sends a create request; its answer, `None` when none came.
    pub(crate) async fn create(
        &mut self,
        names: &Names,
        request: pb::WatchCreateRequest,
        patience: Duration,
    ) -> Option<pb::WatchResponse> {
        self.send(Some(pb::watch_request::RequestUnion::CreateRequest(
            request,
        )));
        let deadline = Instant::now() + patience;
        while let Some(response) = self.receive(deadline).await {
            if response.created {
                return Some(response);
            }
            self.sort(names, response);
        }
        None
    }

    /// Waits until `enough` holds of what has arrived; whether it did.
    pub(crate) async fn wait(
        &mut self,
        names: &Names,
        patience: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> bool {
        let deadline = Instant::now() + patience;
        self.drain(names);
        while !enough(self) {
            match self.receive(deadline).await {
                Some(response) => self.sort(names, response),
                None => return false,
            }
        }
        true
    }

    /// Takes in what has arrived.
    pub(crate) fn drain(&mut self, names: &Names) {
        while let Ok(message) = self.incoming.try_recv() {
            match message {
                Ok(response) => self.sort(names, response),
                Err(status) => self.end = Some((status.code(), status.message().to_owned())),
            }
        }
    }

    /// Returns once the server has handled every earlier request and looked at the store for
    /// every watch. Only for servers that take progress requests as such a barrier.
    pub(crate) async fn barrier(&mut self, names: &Names, patience: Duration) -> bool {
        use pb::watch_request::RequestUnion;
        if self.requests.is_none() || self.end.is_some() {
            return true;
        }
        let before = self.progress_count();
        self.send(Some(RequestUnion::ProgressRequest(
            pb::WatchProgressRequest {},
        )));
        let marker = pb::WatchCreateRequest {
            key: "\0marker".into(),
            watch_id: MARKER,
            start_revision: i64::MAX,
            ..Default::default()
        };
        let created = self.create(names, marker, patience).await.is_some();
        self.send(Some(RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id: MARKER,
        })));
        let gone = self
            .wait(names, patience, |stream| stream.canceled(MARKER))
            .await;
        self.seen.remove(&MARKER);
        if let Some(progress) = self.seen.get_mut(&STREAM_WIDE) {
            progress.truncate(before);
        }
        created && gone
    }

    pub(crate) fn progress_count(&self) -> usize {
        self.seen.get(&STREAM_WIDE).map_or(0, Vec::len)
    }

    /// Number of events of a watch that have not been taken.
    pub(crate) fn events(&self, id: i64) -> usize {
        let is_event = |seen: &&Seen| matches!(seen, Seen::Event(_));
        self.seen
            .get(&id)
            .map_or(0, |seen| seen.iter().filter(is_event).count())
    }

    pub(crate) fn canceled(&self, id: i64) -> bool {
        self.seen
            .get(&id)
            .is_some_and(|seen| seen.iter().any(|seen| matches!(seen, Seen::Canceled(_))))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// How the stream ended.
    pub(crate) fn end(&self) -> Option<&(Code, String)> {
        self.end.as_ref()
    }

    /// Everything since the last time, by watch.
    pub(crate) fn take(&mut self) -> BTreeMap<i64, Vec<Seen>> {
        let mut taken = std::mem::take(&mut self.seen);
        taken.retain(|_, seen| !seen.is_empty());
        taken
    }

    /// Takes the newest progress notification of the whole stream.
    pub(crate) fn take_progress(&mut self) -> Option<Seen> {
        self.seen.get_mut(&STREAM_WIDE).and_then(Vec::pop)
    }

    /// Takes the message that ended a watch.
    pub(crate) fn take_canceled(&mut self, id: i64) -> Option<pb::WatchResponse> {
        let seen = self.seen.get_mut(&id)?;
        match seen.pop() {
            Some(Seen::Canceled(response)) => Some(response),
            Some(other) => {
                seen.push(other);
                None
            }
            None => None,
        }
    }

    pub(crate) fn take_broken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.broken)
    }

    async fn receive(&mut self, deadline: Instant) -> Option<pb::WatchResponse> {
        match timeout_at(deadline, self.incoming.recv()).await {
            Ok(Some(Ok(response))) => Some(response),
            Ok(Some(Err(status))) => {
                self.end = Some((status.code(), status.message().to_owned()));
                None
            }
            Ok(None) | Err(_) => None,
        }
    }

    fn sort(&mut self, names: &Names, mut response: pb::WatchResponse) {
        let id = response.watch_id;
        if let Some(run) = self.fragmented
            && run != id
        {
            self.broken
                .push(format!("watch {id} speaks within the fragments of {run}"));
        }
        self.fragmented = response.fragment.then_some(id);
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let seen = self.seen.entry(id).or_default();
        if response.canceled {
            answer::header(&mut response.header);
            seen.push(Seen::Canceled(response));
            return;
        }
        if response.events.is_empty() {
            seen.push(Seen::Progress(revision));
            return;
        }
        let newest = response
            .events
            .iter()
            .filter_map(|event| Some(event.kv.as_ref()?.mod_revision))
            .max()
            .unwrap_or(0);
        if newest > revision {
            self.broken.push(format!(
                "watch {id}: an event of revision {newest} in a message of revision {revision}"
            ));
        }
        for mut event in response.events {
            answer::event(names, &mut event);
            seen.push(Seen::Event(Box::new(event)));
        }
    }
}
