//! Space: how much the state may take, what happens when it is used up, and who is told before.
//!
//! A member whose state has reached the quota, or whose file system is nearly full, raises the
//! alarm NOSPACE for itself. While any
//! member has, everything that adds is refused when it is applied, on all of them alike. The
//! alarm stays until it is ended: by an operator, or, where that is asked for, by the member
//! itself once it has room again, for which it then also sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use trivet_datastore::Revision;
use trivet_mvcc::{Op, Txn};

use crate::engine::Engine;
use crate::failure::Failure;
use crate::state::{Alarm, AlarmAction, AlarmMember, Command, Shared};

/// How often a member looks at its size.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Shares of the quota, in percent, at which the log names the largest prefixes.
const WARN_PERCENT: [u64; 3] = [60, 80, 90];

/// A warning is given again after the size has fallen this far below its share, in percent of
/// the quota.
const WARN_AGAIN_PERCENT: u64 = 5;

/// Prefixes named in a warning.
const NAMED_PREFIXES: usize = 5;

/// The alarm ends by itself below this share of the quota, in percent.
const CLEAR_PERCENT: u64 = 90;

/// Garbage is collected for want of space from this share of the files on, in percent.
const GARBAGE_PERCENT: u64 = 10;

/// Room that is kept on the file system so that deletions, compactions and checkpoints remain
/// possible: a share of it, in percent, up to a limit.
const RESERVE_BYTES: u64 = 128 << 20;
const RESERVE_PERCENT: u64 = 5;

/// The reserve of a small file system: the log takes space a megabyte at a time for its next
/// segment, and must not come to its end by that.
const SMALL_RESERVE_BYTES: u64 = 16 << 20;
const SMALL_RESERVE_PERCENT: u64 = 20;

/// How often a command's bytes are written: to the log, into a segment, and once more when that
/// is rewritten.
const WRITTEN_TIMES: u64 = 3;

/// etcd's estimates of what a command adds.
const PUT_COST: u64 = 256;
const LEASE_COST: u64 = 64;

/// The quota of a setting: 0 for the usual one, negative for none.
pub(crate) fn quota_bytes(setting: i64) -> Option<u64> {
    match setting {
        0 => Some(crate::limits::DEFAULT_QUOTA_BYTES),
        setting => u64::try_from(setting).ok(),
    }
}

/// What a command adds at most, as etcd estimates it; 0 for those that add nothing.
pub(crate) fn cost(command: &Command) -> u64 {
    match command {
        Command::Txn(txn) => txn_cost(txn),
        Command::LeaseGrant { .. } => LEASE_COST,
        _ => 0,
    }
}

fn txn_cost(txn: &Txn) -> u64 {
    let branch = |ops: &[Op]| -> u64 {
        ops.iter()
            .map(|op| match op {
                Op::Put(put) => PUT_COST + put.key.len() as u64 + put.value.len() as u64,
                Op::Txn(txn) => txn_cost(txn),
                Op::Range(_) | Op::DeleteRange(_) => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

impl Engine {
    /// Whether the state has room for a command. If not, the alarm is raised before the answer,
    /// as in etcd.
    pub(crate) async fn check_quota(&self, command: &Command) -> Result<(), Failure> {
        let cost = cost(command);
        if cost == 0 {
            return Ok(());
        }
        let fits = |quota| self.shared.total_bytes() + cost < quota;
        if self.bounds.quota_bytes.is_none_or(fits) && self.room.take(cost, &self.shared) {
            return Ok(());
        }
        // Whether it can be raised now makes no difference to this request.
        if let Err(failure) = self.alarm(AlarmAction::Activate, Alarm::NoSpace).await {
            tracing::warn!(error = %failure, "raising the alarm NOSPACE failed for now");
        }
        Err(Failure::Alarm(Alarm::NoSpace))
    }

    /// Raises or ends an alarm of this member, unless that is so already.
    pub(crate) async fn alarm(&self, action: AlarmAction, alarm: Alarm) -> Result<(), Failure> {
        let alarm = AlarmMember {
            alarm,
            member: self.member_id,
        };
        if self.alarms().contains(alarm) == (action == AlarmAction::Activate) {
            return Ok(());
        }
        // Boxed: this is part of carrying out a command.
        Box::pin(self.execute(&Command::Alarm { action, alarm })).await?;
        let (alarm, size_bytes) = (alarm.alarm.name(), self.shared.total_bytes());
        match action {
            AlarmAction::Activate => tracing::error!(
                alarm,
                size_bytes,
                quota_bytes = self.bounds.quota_bytes,
                free_bytes = self.shared.space().map(|space| space.free_bytes),
                "alarm raised: nothing is added any more; delete, compact and defragment, then end the alarm"
            ),
            AlarmAction::Deactivate => tracing::info!(alarm, size_bytes, "alarm ended"),
        }
        Ok(())
    }
}

/// Watches the size of this member's state until the engine ends.
pub(crate) async fn guard(engine: Arc<Engine>, clears_itself: bool) {
    let quota = engine.bounds.quota_bytes.unwrap_or(u64::MAX);
    let mut warner = Warner::default();
    let mut cleaner = Cleaner::default();
    loop {
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let size = engine.shared.total_bytes();
        if let Some(percent) = warner.look(size, quota) {
            warn(&engine, percent, size, quota).await;
        }
        let own = AlarmMember {
            alarm: Alarm::NoSpace,
            member: engine.member_id,
        };
        let raised = engine.alarms().contains(own);
        let free = engine.room.look(&engine.shared);
        let action = if (size >= quota || free == Free::Short) && !raised {
            AlarmAction::Activate
        } else if raised
            && clears_itself
            && below(size, quota, CLEAR_PERCENT)
            && free == Free::Enough
        {
            AlarmAction::Deactivate
        } else {
            if raised && clears_itself {
                cleaner.clean(&engine).await;
            } else {
                cleaner = Cleaner::default();
            }
            continue;
        };
        // It is tried again soon.
        if let Err(failure) = engine.alarm(action, Alarm::NoSpace).await {
            tracing::debug!(error = %failure, "changing the alarm NOSPACE failed for now");
        }
    }
}

/// Whether `size` is less than a share of `quota`.
fn below(size: u64, quota: u64, percent: u64) -> bool {
    u128::from(size) * 100 < u128::from(quota) * u128::from(percent)
}

/// Says when a share of the quota is passed: once, until the size has fallen well below it.
#[derive(Debug, Default)]
struct Warner {
    /// How many of the shares have been passed.
    passed: usize,
}

impl Warner {
    /// The share to warn about now.
    fn look(&mut self, size: u64, quota: u64) -> Option<u64> {
        let passed = WARN_PERCENT
            .iter()
            .filter(|percent| !below(size, quota, **percent))
            .count();
        if passed > self.passed {
            self.passed = passed;
            return Some(WARN_PERCENT[passed - 1]);
        }
        while self.passed > passed
            && below(
                size,
                quota,
                WARN_PERCENT[self.passed - 1] - WARN_AGAIN_PERCENT,
            )
        {
            self.passed -= 1;
        }
        None
    }
}

async fn warn(engine: &Engine, percent: u64, size: u64, quota: u64) {
    let largest = match engine.shared.largest_prefixes(NAMED_PREFIXES).await {
        Ok(prefixes) => prefixes
            .iter()
            .map(|found| {
                format!(
                    "{:?}: {} bytes in {} keys",
                    String::from_utf8_lossy(&found.prefix),
                    found.bytes,
                    found.keys
                )
            })
            .collect::<Vec<_>>()
            .join(", "),
        Err(error) => format!("unknown: {error}"),
    };
    tracing::warn!(
        size_bytes = size,
        quota_bytes = quota,
        largest,
        "the datastore has used {percent} % of its space"
    );
}

/// How much room the file system has beside the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Free {
    /// Less than none.
    Short,
    /// Too little to end an alarm.
    Some,
    /// As much as the reserve again, or nobody knows.
    Enough,
}

fn reserve_bytes(total_bytes: u64) -> u64 {
    let share = |percent| total_bytes / 100 * percent;
    let small = SMALL_RESERVE_BYTES.min(share(SMALL_RESERVE_PERCENT));
    RESERVE_BYTES.min(share(RESERVE_PERCENT)).max(small)
}

/// What is left of the file system beside the reserve; asked for now and then, and counted down
/// in between.
#[derive(Debug)]
pub(crate) struct Room {
    left_bytes: AtomicI64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left_bytes: AtomicI64::new(0),
        }
    }
}

impl Room {
    fn look(&self, shared: &Shared) -> Free {
        let Some(space) = shared.space() else {
            self.left_bytes.store(i64::MAX / 2, Ordering::Relaxed);
            return Free::Enough;
        };
        let reserve = reserve_bytes(space.total_bytes);
        let left = i64::try_from(space.free_bytes)
            .unwrap_or(i64::MAX / 2)
            .saturating_sub_unsigned(reserve);
        self.left_bytes.store(left, Ordering::Relaxed);
        match left {
            ..=0 => Free::Short,
            left if left.unsigned_abs() < reserve => Free::Some,
            _ => Free::Enough,
        }
    }

    /// Whether there is room for a command of this cost.
    fn take(&self, cost: u64, shared: &Shared) -> bool {
        let bytes = i64::try_from(cost * WRITTEN_TIMES).unwrap_or(i64::MAX / 2);
        let before = self.left_bytes.fetch_sub(bytes, Ordering::Relaxed);
        before > bytes || self.look(shared) != Free::Short
    }
}

/// Makes room after the alarm was raised, a step at a time: history that is older than the last
/// step is given up, and files are tidied when there is something to gain.
#[derive(Debug, Default)]
struct Cleaner {
    last: Option<(Instant, Revision)>,
}

impl Cleaner {
    async fn clean(&mut self, engine: &Arc<Engine>) {
        let newest = engine.shared.revision();
        let (since, seen) = *self.last.get_or_insert((Instant::now(), newest));
        // Long enough for a reader of several pages at one revision to come to its end.
        if since.elapsed() < 10 * engine.timing.election {
            return;
        }
        self.last = Some((Instant::now(), newest));
        if seen > engine.shared.compact_revision() {
            let compact = Command::Compact { revision: seen };
            match engine.execute(&compact).await {
                Ok(_) => tracing::warn!(revision = seen.0, "compacted for want of space"),
                // Another member was first.
                Err(Failure::Refused(trivet_mvcc::Error::Compacted { .. })) => {}
                Err(failure) => {
                    tracing::debug!(error = %failure, "compacting for want of space failed for now");
                }
            }
        }
        let size = engine.shared.size();
        if below(size.in_use_bytes, size.total_bytes, 100 - GARBAGE_PERCENT)
            && let Err(failure) = engine.defragment().await
        {
            tracing::warn!(error = %failure, "defragmenting for want of space failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trivet_datastore::LeaseId;
    use trivet_mvcc::PutOp;

    #[test]
    fn costs_are_those_of_etcd() {
        let put = |value: usize| Op::Put(PutOp::new("key", vec![0; value]));
        let txn = Txn {
            success: vec![put(10), put(20)],
            failure: vec![put(1), Op::Txn(Txn::single(put(1000)))],
            ..Txn::default()
        };
        assert_eq!(cost(&Command::Txn(Txn::single(put(10)))), 256 + 3 + 10);
        assert_eq!(cost(&Command::Txn(txn)), 2 * (256 + 3) + 1001);
        let id = LeaseId(1);
        assert_eq!(cost(&Command::LeaseGrant { id, ttl_s: 1 }), 64);
        assert_eq!(cost(&Command::LeaseRevoke { id }), 0);
    }

    #[test]
    fn settings_mean_what_they_mean_in_etcd() {
        assert_eq!(quota_bytes(0), Some(2 << 30));
        assert_eq!(quota_bytes(-1), None);
        assert_eq!(quota_bytes(5), Some(5));
    }

    #[test]
    fn the_reserve_fits_the_file_system() {
        const MIB: u64 = 1 << 20;
        for (total, reserve) in [(40, 8), (200, 16), (1000, 50), (1 << 20, 128)] {
            let rounded = (reserve_bytes(total * MIB) + MIB / 2) / MIB;
            assert_eq!(rounded, reserve, "{total} MiB");
        }
        assert_eq!(reserve_bytes(0), 0);
    }

    #[test]
    fn every_share_is_warned_about_once() {
        let mut warner = Warner::default();
        let mut look = |size| warner.look(size, 1000);
        assert_eq!(look(599), None);
        assert_eq!(look(600), Some(60));
        assert_eq!(look(700), None);
        // Several at once are one warning.
        assert_eq!(look(950), Some(90));
        assert_eq!(look(2000), None);
        // A little less is no news, and neither is what was there before.
        assert_eq!(look(860), None);
        assert_eq!(look(910), None);
        // Well below, and back again.
        assert_eq!(look(849), None);
        assert_eq!(look(900), Some(90));
        assert_eq!(look(100), None);
        assert_eq!(look(810), Some(80));
    }
}
