//! What locks and elections have in common: a queue of keys under a prefix, one per session,
//! in the order of their creation. The oldest key's session has its turn.
//!
//! A key is the queue's name, a slash, and the session's lease in hexadecimal; it goes with the
//! lease.

use std::future::Future;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::local::OnBehalf;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;

/// Time to live of the lease of a session whose caller brought none. Nobody renews it.
const SESSION_TTL_SECONDS: i64 = 60;

/// One queue, for one caller.
#[derive(Clone)]
pub(super) struct Queue {
    client: OnBehalf,
    prefix: Bytes,
}

/// A session's key in a queue.
pub(super) struct Place {
    pub(super) key: Bytes,
    pub(super) lease: i64,
    /// The key's creation, which gives its rank.
    pub(super) created: i64,
    /// The value that the key had already, if it was there.
    pub(super) found: Option<Bytes>,
    /// Whether nobody was before it when it was entered.
    pub(super) first: bool,
    /// Of the transaction that entered it.
    pub(super) header: Option<pb::ResponseHeader>,
}

impl Queue {
    pub(super) fn new(client: OnBehalf, name: &[u8]) -> Self {
        let prefix = [name, b"/"].concat().into();
        Self { client, prefix }
    }

    /// The lease of a session: the given one, or a new one.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        match lease {
            0 => self.client.grant(SESSION_TTL_SECONDS).await,
            lease => Ok(lease),
        }
    }

    /// Queues up, or finds the place that the session has already.
    pub(super) async fn enter(&self, lease: i64, value: Bytes) -> Result<Place, Status> {
        let key = key(&self.prefix, lease);
        let put = pb::PutRequest {
            key: key.clone(),
            value,
            lease,
            ..Default::default()
        };
        let own = pb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let oldest = pb::request_op::Request::RequestRange(self.oldest());
        let response = self
            .client
            .txn(pb::TxnRequest {
                compare: vec![created(key.clone(), 0)],
                success: vec![
                    op(pb::request_op::Request::RequestPut(put)),
                    op(oldest.clone()),
                ],
                failure: vec![op(pb::request_op::Request::RequestRange(own)), op(oldest)],
            })
            .await?;
        let mut ranges = response
            .responses
            .into_iter()
            .filter_map(|op| match op.response {
                Some(pb::response_op::Response::ResponseRange(range)) => Some(range.kvs),
                _ => None,
            });
        let revision = response.header.map_or(0, |header| header.revision);
        let (created, found) = if response.succeeded {
            (revision, None)
        } else {
            let own = ranges.next().and_then(|kvs| kvs.into_iter().next());
            let own = own.ok_or_else(|| Status::unknown("the session's key is not there"))?;
            (own.create_revision, Some(own.value))
        };
        let oldest = ranges.next().and_then(|kvs| kvs.into_iter().next());
        Ok(Place {
            key,
            lease,
            created,
            found,
            first: oldest.is_none_or(|oldest| oldest.create_revision == created),
            header: response.header,
        })
    }

    /// Waits until every older key is gone. The header of the read that shows it; `None` if by
    /// then the place itself is gone.
    pub(super) async fn turn(
        &self,
        place: &Place,
    ) -> Result<Option<Option<pb::ResponseHeader>>, Status> {
        let own = pb::RangeRequest {
            key: place.key.clone(),
            ..Default::default()
        };
        let older = pb::RangeRequest {
            sort_order: pb::range_request::SortOrder::Descend.into(),
            max_create_revision: place.created - 1,
            keys_only: true,
            ..self.oldest()
        };
        loop {
            // Both at one revision.
            let response = self
                .client
                .txn(pb::TxnRequest {
                    success: [&own, &older]
                        .map(|range| op(pb::request_op::Request::RequestRange(range.clone())))
                        .into(),
                    ..Default::default()
                })
                .await?;
            let mut ranges = response.responses.into_iter().map(|op| match op.response {
                Some(pb::response_op::Response::ResponseRange(range)) => range.kvs,
                _ => Vec::new(),
            });
            let own = ranges.next().and_then(|kvs| kvs.into_iter().next());
            let older = ranges.next().and_then(|kvs| kvs.into_iter().next());
            if own.is_none_or(|own| own.create_revision != place.created) {
                return Ok(None);
            }
            let Some(older) = older else {
                return Ok(Some(response.header));
            };
            let next = response.header.map_or(0, |header| header.revision) + 1;
            // A session that ends while it waits need not wait to hear of it.
            self.until_deleted(&[&older.key, &place.key], next).await?;
        }
    }

    /// Gives a place up, if it is still the one that was entered.
    pub(super) async fn leave(
        &self,
        key: Bytes,
        created_at: i64,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let delete = pb::DeleteRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let response = self
            .client
            .txn(pb::TxnRequest {
                compare: vec![created(key, created_at)],
                success: vec![op(pb::request_op::Request::RequestDeleteRange(delete))],
                failure: Vec::new(),
            })
            .await?;
        Ok(response.header)
    }

    /// Gives a place another value; `None` if it is lost.
    pub(super) async fn assign(
        &self,
        key: Bytes,
        created_at: i64,
        lease: i64,
        value: Bytes,
    ) -> Result<Option<Option<pb::ResponseHeader>>, Status> {
        let put = pb::PutRequest {
            key: key.clone(),
            value,
            lease,
            ..Default::default()
        };
        let response = self
            .client
            .txn(pb::TxnRequest {
                compare: vec![created(key, created_at)],
                success: vec![op(pb::request_op::Request::RequestPut(put))],
                failure: Vec::new(),
            })
            .await?;
        Ok(response.succeeded.then_some(response.header))
    }

    /// Whose turn it is, if anybody's.
    pub(super) async fn holder(
        &self,
    ) -> Result<(Option<pb::ResponseHeader>, Option<mvccpb::KeyValue>), Status> {
        let response = self.client.range(self.oldest()).await?;
        Ok((response.header, response.kvs.into_iter().next()))
    }

    /// Waits for the first key to be put into an empty queue.
    pub(super) async fn first_put(
        &self,
        from: i64,
    ) -> Result<Option<(Option<pb::ResponseHeader>, mvccpb::KeyValue)>, Status> {
        let watch = pb::WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: end(&self.prefix),
            start_revision: from,
            ..Default::default()
        };
        let mut watch = Watch(self.client.watch(vec![watch]).await?);
        while let Some((header, events)) = watch.next().await? {
            for event in events {
                if let (false, Some(kv)) = (is_delete(&event), event.kv) {
                    // Of this put, though the batch may go further.
                    let header = header.map(|header| pb::ResponseHeader {
                        revision: kv.mod_revision,
                        ..header
                    });
                    return Ok(Some((header, kv)));
                }
            }
        }
        Ok(None)
    }

    /// Follows one key.
    pub(super) async fn follow(&self, key: Bytes, from: i64) -> Result<Watch, Status> {
        let watch = pb::WatchCreateRequest {
            key,
            start_revision: from,
            ..Default::default()
        };
        Ok(Watch(self.client.watch(vec![watch]).await?))
    }

    /// Returns when one of the keys was deleted, or may have been.
    async fn until_deleted(&self, keys: &[&Bytes], from: i64) -> Result<(), Status> {
        let watches = keys.iter().map(|key| pb::WatchCreateRequest {
            key: Bytes::clone(key),
            start_revision: from,
            ..Default::default()
        });
        let mut watch = Watch(self.client.watch(watches.collect()).await?);
        while let Some((_, events)) = watch.next().await? {
            if events.iter().any(is_delete) {
                return Ok(());
            }
        }
        // What was to be seen is compacted: to be looked at again.
        Ok(())
    }

    fn oldest(&self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.prefix.clone(),
            range_end: end(&self.prefix),
            limit: 1,
            sort_order: pb::range_request::SortOrder::Ascend.into(),
            sort_target: pb::range_request::SortTarget::Create.into(),
            ..Default::default()
        }
    }
}

/// A stream of events.
pub(super) struct Watch(tonic::Streaming<pb::WatchResponse>);

impl Watch {
    /// The next events; `None` when the next ones are compacted.
    pub(super) async fn next(
        &mut self,
    ) -> Result<Option<(Option<pb::ResponseHeader>, Vec<mvccpb::Event>)>, Status> {
        let response = self.0.message().await?;
        let response = response.ok_or_else(|| Status::unknown("the watch ended early"))?;
        match response.canceled {
            true if response.compact_revision != 0 => Ok(None),
            true => Err(Status::unknown(response.cancel_reason)),
            false => Ok(Some((response.header, response.events))),
        }
    }
}

pub(super) fn is_delete(event: &mvccpb::Event) -> bool {
    event.r#type() == mvccpb::event::EventType::Delete
}

/// Runs `work` to its end even when its caller goes away, and tells it when that happens: a
/// place in a queue must not stay behind.
pub(super) async fn attended<T, F>(
    tasks: &TaskTracker,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
{
    let gone = CancellationToken::new();
    let _tell = gone.clone().drop_guard();
    match tasks.spawn(work(gone)).await {
        Ok(outcome) => outcome.map_err(|status| as_unknown(&status)),
        Err(error) => Err(Status::unknown(error.to_string())),
    }
}

/// Waits for the turn of a place; leaves it when that fails or the caller goes away.
pub(super) async fn wait(
    queue: &Queue,
    place: &Place,
    gone: &CancellationToken,
) -> Result<Option<Option<pb::ResponseHeader>>, Status> {
    let outcome = tokio::select! {
        biased;
        () = gone.cancelled() => Err(Status::cancelled("context canceled")),
        outcome = queue.turn(place) => outcome,
    };
    if outcome.is_err()
        && let Err(error) = queue.leave(place.key.clone(), place.created).await
    {
        // Its lease ends it.
        tracing::debug!(%error, "a place in a queue stays until its lease ends");
    }
    outcome
}

/// Whatever fails behind a lock or an election, the code is Unknown, as in etcd; the text stays.
pub(super) fn as_unknown(status: &Status) -> Status {
    Status::unknown(status.message())
}

fn key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let suffix = format!("{sign}{:x}", lease.unsigned_abs());
    [prefix, suffix.as_bytes()].concat().into()
}

/// End of the interval of keys that begin with the prefix, which ends in a slash.
fn end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Holds for a key created at this revision; at 0 for one that does not exist.
fn created(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Create.into(),
        key,
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_carry_the_lease_in_hexadecimal() {
        assert_eq!(key(b"a/", 0x4d), "a/4d");
        assert_eq!(key(b"/", -0x4d), "/-4d");
        assert_eq!(key(b"/", i64::MIN), "/-8000000000000000");
        assert_eq!(end(b"a/"), "a0");
    }
}
