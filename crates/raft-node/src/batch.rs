//! The queue in front of consensus.
//!
//! A batch forms while earlier ones are on their way; nothing lingers. Both the queue and what
//! is on its way are bounded, and a command that nobody has taken yet can be given up with the
//! certainty that it was not proposed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::api::Error;

/// Limits of one batch: log entry or forwarded message.
pub(crate) const BATCH_COMMANDS_MAX: usize = 512;
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// Limits of what waits.
const QUEUE_COMMANDS_MAX: usize = 16 << 10;
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Bytes are counted in units of this size: permits are 32 bits wide.
const BYTES_UNIT: usize = 1 << 10;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing was proposed; another try may succeed.
    NotLeader,
    /// Final, and certain or not as the error says.
    Failed(Error),
}

/// Carries one batch to its end: as many answers as commands.
pub(crate) type Sink =
    Arc<dyn Fn(Vec<Bytes>) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>> + Send + Sync>;

struct Item {
    command: Bytes,
    reply: oneshot::Sender<Result<Bytes, Refusal>>,
    /// Set by whoever comes first: the batch that takes the command, or the caller giving up.
    claimed: Arc<AtomicBool>,
    _bytes: OwnedSemaphorePermit,
}

impl Item {
    fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }
}

/// Where commands are handed in.
#[derive(Clone)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
}

impl Batcher {
    /// The queue and the future that empties it into `sink`, with at most `in_flight` batches on
    /// their way. The future ends when every handle on the queue is gone.
    pub(crate) fn new(in_flight: usize, sink: Sink) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, items) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES_MAX / BYTES_UNIT));
        (Self { queue, bytes }, run(items, in_flight, sink))
    }

    /// Hands in one command. Gives up with nothing proposed when no batch takes it before
    /// `take_by`, and with an unknown outcome when there is no answer by `answer_by`.
    pub(crate) async fn submit(
        &self,
        command: Bytes,
        take_by: Instant,
        answer_by: Instant,
    ) -> Result<Bytes, Refusal> {
        let overloaded = |_| Refusal::Failed(Error::Overloaded);
        let units = command.len().div_ceil(BYTES_UNIT).max(1) as u32;
        let bytes = self
            .bytes
            .clone()
            .try_acquire_many_owned(units)
            .map_err(|_| overloaded(()))?;
        let (reply, mut answer) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let item = Item {
            command,
            reply,
            claimed: claimed.clone(),
            _bytes: bytes,
        };
        self.queue.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(()),
            mpsc::error::TrySendError::Closed(_) => Refusal::Failed(Error::Stopped),
        })?;
        let lost = |_| {
            Err(Refusal::Failed(Error::Unknown(
                "the member stopped before the answer came".into(),
            )))
        };
        match tokio::time::timeout_at(take_by, &mut answer).await {
            Ok(answer) => return answer.unwrap_or_else(lost),
            Err(_) if !claimed.swap(true, Ordering::AcqRel) => return Err(Refusal::NotLeader),
            Err(_) => {}
        }
        match tokio::time::timeout_at(answer_by, answer).await {
            Ok(answer) => answer.unwrap_or_else(lost),
            Err(_) => Err(Refusal::Failed(Error::Unknown("no answer in time".into()))),
        }
    }
}

async fn run(mut items: mpsc::Receiver<Item>, in_flight: usize, sink: Sink) {
    let slots = Arc::new(Semaphore::new(in_flight));
    let mut carried = None;
    loop {
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let first = match carried.take() {
            Some(item) => item,
            None => match items.recv().await {
                Some(item) => item,
                None => return,
            },
        };
        let mut size = 0;
        let mut commands = Vec::new();
        let mut replies = Vec::new();
        let mut next = Some(first);
        while let Some(item) = next.take() {
            if !commands.is_empty() && size + item.command.len() > BATCH_BYTES_MAX {
                carried = Some(item);
                break;
            }
            // A caller that went away needs no answer, and so no proposal.
            if !item.reply.is_closed() && item.claim() {
                size += item.command.len();
                commands.push(item.command);
                replies.push((item.reply, item._bytes));
            }
            if commands.len() < BATCH_COMMANDS_MAX {
                next = items.try_recv().ok();
            }
        }
        if commands.is_empty() {
            continue;
        }
        let work = sink(commands);
        tokio::spawn(async move {
            let result = work.await;
            drop(slot);
            answer(replies, result);
        });
    }
}

fn answer(
    replies: Vec<(
        oneshot::Sender<Result<Bytes, Refusal>>,
        OwnedSemaphorePermit,
    )>,
    result: Result<Vec<Bytes>, Refusal>,
) {
    match result {
        Ok(answers) if answers.len() == replies.len() => {
            for ((reply, _), answer) in replies.into_iter().zip(answers) {
                // The caller may have gone away.
                let _ = reply.send(Ok(answer));
            }
        }
        Ok(_) => {
            let refusal =
                Refusal::Failed(Error::Unknown("the answers do not fit the commands".into()));
            answer(replies, Err(refusal));
        }
        Err(refusal) => {
            for (reply, _) in replies {
                let _ = reply.send(Err(refusal.clone()));
            }
        }
    }
}

/// How long callers wait, derived from the election timeout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a leader to appear, while nothing is proposed.
    pub(crate) route: Duration,
    /// For the outcome of something proposed.
    pub(crate) outcome: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn batches_form_while_others_are_on_their_way() {
        let sizes = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let sink: Sink = Arc::new(move |commands| {
            seen.lock().expect("sizes").push(commands.len());
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(commands)
            })
        });
        let (batcher, run) = Batcher::new(1, sink);
        tokio::spawn(run);
        let calls = (0..1000u32).map(|n| {
            let batcher = batcher.clone();
            async move {
                let command = Bytes::copy_from_slice(&n.to_le_bytes());
                assert_eq!(
                    batcher.submit(command.clone(), later(), later()).await,
                    Ok(command)
                );
            }
        });
        futures_util::future::join_all(calls).await;
        let sizes = sizes.lock().expect("sizes");
        assert_eq!(sizes.iter().sum::<usize>(), 1000);
        assert!(
            sizes.len() <= 3 && sizes.iter().all(|size| *size <= BATCH_COMMANDS_MAX),
            "{sizes:?}"
        );
    }

    #[tokio::test]
    async fn what_no_batch_took_is_certainly_not_proposed() {
        let sink: Sink = Arc::new(|_| Box::pin(std::future::pending()));
        let (batcher, run) = Batcher::new(1, sink);
        tokio::spawn(run);
        let first = batcher.submit(
            Bytes::from_static(b"a"),
            soon(),
            soon() + Duration::from_millis(50),
        );
        let second = async {
            tokio::task::yield_now().await;
            batcher
                .submit(Bytes::from_static(b"b"), soon(), later())
                .await
        };
        let (first, second) = tokio::join!(first, second);
        assert!(
            matches!(first, Err(Refusal::Failed(Error::Unknown(_)))),
            "{first:?}"
        );
        assert_eq!(second, Err(Refusal::NotLeader));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let sink: Sink = Arc::new(|_| Box::pin(std::future::pending()));
        // The queue is not even being emptied.
        let (batcher, _run) = Batcher::new(1, sink);
        let big = Bytes::from(vec![0; QUEUE_BYTES_MAX / 2]);
        let waiting = [(); 2].map(|()| {
            let (batcher, big) = (batcher.clone(), big.clone());
            tokio::spawn(async move { batcher.submit(big, later(), later()).await })
        });
        while batcher.bytes.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = batcher
            .submit(Bytes::from_static(b"x"), later(), later())
            .await;
        assert_eq!(refused, Err(Refusal::Failed(Error::Overloaded)));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
