//! Automatic compaction, as etcd does it: by age or by number of revisions, on the leader only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use trivet_datastore::Revision;

use crate::engine::Engine;
use crate::failure::Failure;
use crate::state::Command;

/// Compaction by age is done at least this often.
const LONGEST_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The revision is noted this often in every interval between compactions.
const SAMPLES_PER_INTERVAL: u32 = 10;

/// How often revisions beyond the retained number are compacted.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// What was current within this time.
    Periodic(Duration),
    /// This many revisions.
    Revision(u64),
}

/// Why a setting means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AutoCompactionError {
    /// Neither `periodic` nor `revision`.
    #[error("unknown auto-compaction-mode {0:?}: it is periodic or revision")]
    Mode(String),
    /// Neither a number nor a duration.
    #[error(
        "cannot read the auto-compaction-retention {0:?}: it is a number (of hours, or of revisions) or a duration such as 30m"
    )]
    Retention(String),
}

impl AutoCompaction {
    /// Reads etcd's settings. A retention of 0 is none; a bare number counts hours in mode
    /// `periodic`.
    pub fn parse(mode: &str, retention: &str) -> Result<Option<Self>, AutoCompactionError> {
        let unreadable = || AutoCompactionError::Retention(retention.to_owned());
        let number = retention.parse::<u64>().ok();
        let setting = match mode {
            "revision" => Self::Revision(number.ok_or_else(unreadable)?),
            "periodic" | "" => Self::Periodic(match number {
                Some(hours) => Duration::from_secs(hours.checked_mul(3600).ok_or_else(unreadable)?),
                None => parse_duration(retention).ok_or_else(unreadable)?,
            }),
            mode => return Err(AutoCompactionError::Mode(mode.to_owned())),
        };
        let nothing = matches!(setting, Self::Revision(0) | Self::Periodic(Duration::ZERO));
        Ok((!nothing).then_some(setting))
    }

    /// Compacts until the engine ends.
    pub(crate) async fn run(self, engine: Arc<Engine>) {
        let stop = engine.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.compact(&*engine) => {}
        }
    }

    async fn compact(self, store: &dyn Compacts) {
        match self {
            Self::Periodic(period) => periodic(store, period).await,
            Self::Revision(keep) => by_revision(store, keep).await,
        }
    }
}

/// Reads a duration as Go writes it: `72h`, `1h30m`, `1.5h`, `500ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[letters..];
        seconds += number * unit;
    }
    if text.is_empty() {
        return None;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// What compaction needs of a store.
#[async_trait]
trait Compacts: Send + Sync {
    fn revision(&self) -> Revision;
    /// Whether this member leads.
    fn leads(&self) -> bool;
    /// Compacts. That somebody was faster is no error.
    async fn compact(&self, revision: Revision) -> Result<(), Failure>;
}

#[async_trait]
impl Compacts for Engine {
    fn revision(&self) -> Revision {
        self.shared.revision()
    }

    fn leads(&self) -> bool {
        self.leadership().borrow().local
    }

    async fn compact(&self, revision: Revision) -> Result<(), Failure> {
        match self.execute(&Command::Compact { revision }).await {
            Ok(_) | Err(Failure::Refused(trivet_mvcc::Error::Compacted { .. })) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

/// Compacts, and says how it went.
async fn attempt(store: &dyn Compacts, revision: Revision) -> bool {
    match store.compact(revision).await {
        Ok(()) => {
            tracing::info!(revision = revision.0, "compacted the datastore");
            true
        }
        Err(failure) => {
            tracing::warn!(error = %failure, revision = revision.0, "compaction failed and will be tried again");
            false
        }
    }
}

/// Every member notes revisions, so that one that becomes the leader knows what was when.
async fn periodic(store: &dyn Compacts, period: Duration) {
    let interval = period.min(LONGEST_INTERVAL);
    let pause = interval / SAMPLES_PER_INTERVAL;
    let samples_max = (period.as_nanos() / pause.as_nanos().max(1)) as usize + 1;
    let mut samples = VecDeque::new();
    let mut last_success = Instant::now();
    // Nothing is old enough before one whole period has passed.
    let mut wait = period;
    let mut last = Revision(0);
    loop {
        samples.push_back(store.revision());
        if samples.len() > samples_max {
            samples.pop_front();
        }
        tokio::time::sleep(pause).await;
        let oldest = samples.front().copied().unwrap_or_default();
        if !store.leads() || last_success.elapsed() < wait || oldest == last {
            continue;
        }
        wait = interval;
        if attempt(store, oldest).await {
            last_success = Instant::now();
            last = oldest;
        }
    }
}

async fn by_revision(store: &dyn Compacts, keep: u64) {
    let mut last = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let target = store.revision().0.saturating_sub(keep);
        if store.leads() && target != 0 && target != last && attempt(store, Revision(target)).await
        {
            last = target;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A store that writes one revision a minute.
    struct Fake {
        start: Instant,
        /// No more than this.
        newest: u64,
        leads: AtomicBool,
        fails: AtomicBool,
        /// Minute and revision of every attempt.
        attempts: Mutex<Vec<(u64, u64)>>,
    }

    impl Fake {
        fn new(newest: u64) -> Self {
            Self {
                start: Instant::now(),
                newest,
                leads: AtomicBool::new(true),
                fails: AtomicBool::new(false),
                attempts: Mutex::default(),
            }
        }

        fn minute(&self) -> u64 {
            self.start.elapsed().as_secs() / 60
        }

        /// The attempts of some minutes from now on.
        async fn run(
            &self,
            task: &mut (impl Future<Output = ()> + Unpin),
            minutes: u64,
        ) -> Vec<(u64, u64)> {
            let time = tokio::time::sleep(Duration::from_secs(minutes * 60));
            tokio::select! {
                () = task => unreachable!("compaction does not end"),
                () = time => {}
            }
            std::mem::take(&mut self.attempts.lock().unwrap())
        }
    }

    #[async_trait]
    impl Compacts for Fake {
        fn revision(&self) -> Revision {
            Revision(self.minute().min(self.newest) + 1)
        }

        fn leads(&self) -> bool {
            self.leads.load(Ordering::Relaxed)
        }

        async fn compact(&self, revision: Revision) -> Result<(), Failure> {
            let attempt = (self.minute(), revision.0);
            self.attempts.lock().unwrap().push(attempt);
            if self.fails.load(Ordering::Relaxed) {
                return Err(Failure::TimedOut {
                    may_have_happened: true,
                });
            }
            Ok(())
        }
    }

    fn compaction<'a>(
        store: &'a Fake,
        setting: AutoCompaction,
    ) -> impl Future<Output = ()> + Unpin + 'a {
        Box::pin(setting.compact(store))
    }

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[tokio::test(start_paused = true)]
    async fn history_of_a_short_period_is_kept() {
        let store = Fake::new(u64::MAX);
        let mut task = compaction(&store, AutoCompaction::Periodic(minutes(30)));
        assert_eq!(store.run(&mut task, 29).await, []);
        // What was current at the start, half an hour ago; revisions begin at 1. Later it is
        // up to a sample more than half an hour, as in etcd.
        assert_eq!(store.run(&mut task, 2).await, [(30, 1)]);
        assert_eq!(store.run(&mut task, 60).await, [(60, 28), (90, 58)]);
    }

    #[tokio::test(start_paused = true)]
    async fn history_of_a_long_period_is_kept_and_compacted_every_hour() {
        let store = Fake::new(u64::MAX);
        let mut task = compaction(&store, AutoCompaction::Periodic(minutes(5 * 60)));
        assert_eq!(store.run(&mut task, 5 * 60 - 1).await, []);
        assert_eq!(store.run(&mut task, 62).await, [(300, 1), (360, 55)]);
        assert_eq!(store.run(&mut task, 60).await, [(420, 115)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_compacts_and_it_knows_what_was_before_it_led() {
        let store = Fake::new(u64::MAX);
        store.leads.store(false, Ordering::Relaxed);
        let mut task = compaction(&store, AutoCompaction::Periodic(minutes(30)));
        assert_eq!(store.run(&mut task, 100).await, []);
        store.leads.store(true, Ordering::Relaxed);
        // Samples are three minutes apart.
        assert_eq!(store.run(&mut task, 3).await, [(102, 70)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_with_the_next_sample() {
        let store = Fake::new(u64::MAX);
        store.fails.store(true, Ordering::Relaxed);
        let mut task = compaction(&store, AutoCompaction::Periodic(minutes(30)));
        assert_eq!(store.run(&mut task, 34).await, [(30, 1), (33, 1)]);
        store.fails.store(false, Ordering::Relaxed);
        assert_eq!(store.run(&mut task, 10).await, [(36, 4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_new_is_not_compacted_again() {
        let store = Fake::new(3);
        let mut task = compaction(&store, AutoCompaction::Periodic(minutes(30)));
        assert_eq!(store.run(&mut task, 300).await, [(30, 1), (60, 4)]);
        let mut task = compaction(&store, AutoCompaction::Revision(2));
        assert_eq!(store.run(&mut task, 60).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_of_revisions_is_kept() {
        let store = Fake::new(u64::MAX);
        let mut task = compaction(&store, AutoCompaction::Revision(10));
        assert_eq!(store.run(&mut task, 9).await, []);
        assert_eq!(store.run(&mut task, 7).await, [(10, 1), (15, 6)]);
        store.fails.store(true, Ordering::Relaxed);
        assert_eq!(store.run(&mut task, 10).await, [(20, 11), (25, 16)]);
        store.leads.store(false, Ordering::Relaxed);
        assert_eq!(store.run(&mut task, 10).await, []);
    }

    #[test]
    fn settings_are_read_as_etcd_reads_them() {
        let hours = |hours: u64| Ok(Some(AutoCompaction::Periodic(minutes(60 * hours))));
        assert_eq!(AutoCompaction::parse("periodic", "72h"), hours(72));
        assert_eq!(AutoCompaction::parse("periodic", "72"), hours(72));
        assert_eq!(AutoCompaction::parse("", "1"), hours(1));
        for (text, expected) in [
            ("30m", minutes(30)),
            ("1h30m", minutes(90)),
            ("1.5h", minutes(90)),
            ("500ms", Duration::from_millis(500)),
        ] {
            let expected = Ok(Some(AutoCompaction::Periodic(expected)));
            assert_eq!(AutoCompaction::parse("periodic", text), expected, "{text}");
        }
        let revisions = Ok(Some(AutoCompaction::Revision(1000)));
        assert_eq!(AutoCompaction::parse("revision", "1000"), revisions);
        for (mode, none) in [("periodic", "0"), ("revision", "0"), ("periodic", "0s")] {
            assert_eq!(AutoCompaction::parse(mode, none), Ok(None));
        }
        for bad in [
            "",
            "h",
            "5",
            "-1",
            "1d",
            "1h2",
            "1e3h",
            "99999999999999999999",
        ] {
            let parsed = AutoCompaction::parse("periodic", bad);
            assert_eq!(parsed.is_err(), bad != "5", "{bad}: {parsed:?}");
        }
        assert!(AutoCompaction::parse("revision", "1h").is_err());
        assert!(AutoCompaction::parse("sometimes", "1h").is_err());
    }
}
