//! Counters that cost next to nothing where they count, and the text form in which they are
//! read.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Something that only happens more often.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// This many more.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How often so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    /// One more, until the result is dropped.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    pub(crate) fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One in a [`Gauge`].
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds of the buckets for what waits for a disk, in microseconds; etcd's.
const DISK_BUCKETS_US: [u64; 14] = [
    1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000,
    2_048_000, 4_096_000, 8_192_000,
];

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One for each bound and one above all; each counts what is not in the one before.
    buckets: [Counter; DISK_BUCKETS_US.len() + 1],
    sum_ns: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let us = took.as_micros();
        let place = DISK_BUCKETS_US
            .iter()
            .position(|bound| us <= u128::from(*bound))
            .unwrap_or(DISK_BUCKETS_US.len());
        self.buckets[place].increment();
        self.sum_ns
            .add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// A page of metrics in the Prometheus text format.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// Names and values that tell the samples of one metric apart.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Begins a metric; its samples follow.
    pub(crate) fn metric(&mut self, name: &str, kind: Type, help: &str) {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let separator = if place == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{separator}{label}=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric of one sample.
    pub(crate) fn single(
        &mut self,
        name: &str,
        kind: Type,
        help: &str,
        value: impl std::fmt::Display,
    ) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.metric(name, Type::Histogram, help);
        let bucket = format!("{name}_bucket");
        // The count is that of the buckets read here, so that the two never disagree.
        let mut count = 0;
        for (bound_us, held) in DISK_BUCKETS_US.iter().zip(&histogram.buckets) {
            count += held.get();
            let bound = (*bound_us as f64 / 1e6).to_string();
            self.sample(&bucket, &[("le", &bound)], count);
        }
        count += histogram.buckets[DISK_BUCKETS_US.len()].get();
        self.sample(&bucket, &[("le", "+Inf")], count);
        let sum = histogram.sum_ns.get() as f64 / 1e9;
        self.sample(&format!("{name}_sum"), &[], sum);
        self.sample(&format!("{name}_count"), &[], count);
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_not_above_their_bound() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 3, 10_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.histogram("h", "Help.", &histogram);
        let page = page.finish();
        for line in [
            "# HELP h Help.\n# TYPE h histogram\n",
            "h_bucket{le=\"0.001\"} 2\n",
            "h_bucket{le=\"0.002\"} 3\n",
            "h_bucket{le=\"0.004\"} 4\n",
            "h_bucket{le=\"8.192\"} 4\n",
            "h_bucket{le=\"+Inf\"} 5\n",
            "h_sum 10.006\n",
            "h_count 5\n",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("m", &[("a", "x\"y\\z\n"), ("b", "")], 7);
        assert_eq!(page.finish(), "m{a=\"x\\\"y\\\\z\\n\",b=\"\"} 7\n");
    }

    #[test]
    fn a_gauge_falls_when_what_it_counts_goes() {
        let gauge = Gauge::default();
        let one = gauge.hold();
        let two = gauge.hold();
        assert_eq!(gauge.get(), 2);
        drop((one, two));
        assert_eq!(gauge.get(), 0);
    }
}
