//! Limits and timing, with etcd's defaults.

use std::time::Duration;

/// Largest replicated command, unless set otherwise. A longer request is refused with `request
/// is too large`.
pub const MAX_REQUEST_BYTES: usize = 1_572_864;

/// The most that the limit of a request can be set to: several such commands fit into what the
/// log takes at once.
pub const MAX_REQUEST_BYTES_MAX: usize = 16 << 20;

/// What a gRPC message may have beyond the limit of a request before it is refused unread.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Largest number of comparisons, or of operations per branch, in a transaction, unless set
/// otherwise.
pub const MAX_TXN_OPS: usize = 128;

/// Longest time to live of a lease, in seconds.
pub const MAX_LEASE_TTL_SECONDS: i64 = 9_000_000_000;

/// Most learners in a cluster at a time.
pub const MAX_LEARNERS: usize = 1;

/// A learner may vote once it holds this share (in percent) of the leader's log.
pub const LEARNER_READY_PERCENT: u64 = 90;

/// Bytes that the state of a member may take on disk, unless set otherwise.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// Entries that may be committed and not yet applied before nothing more is proposed.
pub(crate) const MAX_APPLY_GAP: u64 = 5000;

/// Watches on one stream. etcd has no such limit; it keeps one client from using up the memory.
pub const MAX_WATCHES_PER_STREAM: usize = 100_000;

/// Responses waiting to be sent on one watch or keep-alive stream before its producers wait.
pub(crate) const STREAM_BUFFER: usize = 128;

/// Streams that one connection may have open at a time.
pub(crate) const MAX_CONCURRENT_STREAMS: u32 = 100_000;

/// Connections that one listener serves at a time; more wait in the kernel's queue.
pub(crate) const MAX_CONNECTIONS: usize = 20_000;

/// Snapshots that one member sends at a time; a further client is told to come later.
pub const MAX_SNAPSHOTS: usize = 4;

/// A client that takes nothing of its snapshot for this long is given up.
pub(crate) const SNAPSHOT_STALL: Duration = Duration::from_secs(120);

/// Time for a TLS handshake, and for the request head of an HTTP/1 client.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open connections may take to finish when the store shuts down.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Sizes as they were set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) request_bytes: usize,
    pub(crate) txn_ops: usize,
    /// Bytes of the state on disk; `None` for no limit.
    pub(crate) quota_bytes: Option<u64>,
}

impl Bounds {
    /// Largest gRPC message that is read.
    pub(crate) fn message_bytes(&self) -> usize {
        self.request_bytes + GRPC_OVERHEAD_BYTES
    }

    /// Size of a watch response from which it is cut into fragments, where the client asked.
    pub(crate) fn fragment_bytes(&self) -> usize {
        self.message_bytes()
    }
}

/// Timing that follows from the election timeout, as in etcd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A request that cannot finish ends after this.
    pub(crate) request: Duration,
    /// A `hasleader` stream ends after this much time without a leader.
    pub(crate) no_leader: Duration,
    /// Shortest lease.
    pub(crate) min_lease_seconds: i64,
    /// Shift of every lease's end when the leader changes.
    pub(crate) election: Duration,
    /// Interval of progress notifications on watches that asked for them.
    pub(crate) watch_progress: Duration,
}

impl Timing {
    pub(crate) fn new(election_timeout: Duration, watch_progress: Duration) -> Self {
        let election_ms = u64::try_from(election_timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            request: Duration::from_secs(5) + 2 * election_timeout,
            no_leader: 3 * election_timeout,
            min_lease_seconds: (election_ms.saturating_mul(3).div_ceil(2))
                .div_ceil(1000)
                .max(1) as i64,
            election: election_timeout,
            watch_progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_defaults_follow_from_an_election_timeout_of_one_second() {
        let timing = Timing::new(Duration::from_secs(1), Duration::from_secs(600));
        assert_eq!(timing.request, Duration::from_secs(7));
        assert_eq!(timing.min_lease_seconds, 2);
        assert_eq!(timing.no_leader, Duration::from_secs(3));
    }
}
