//! What the operating system says of this process.

use std::time::Duration;

/// Numbers about this process; what cannot be had is missing.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_time: Option<Duration>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) max_files: Option<u64>,
    /// Since 1970.
    pub(super) started: Option<Duration>,
}

impl Process {
    pub(super) fn now() -> Self {
        let ticks = rustix::param::clock_ticks_per_second();
        let page_bytes = rustix::param::page_size() as u64;
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let stat = read("/proc/self/stat");
        let booted = read("/proc/stat")
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let limit = read("/proc/self/limits").lines().find_map(|line| {
            line.strip_prefix("Max open files")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        // One of them is the directory that is being read.
        let open = std::fs::read_dir("/proc/self/fd").map(|files| files.count() as u64);
        Self {
            open_files: open.ok().map(|count| count.saturating_sub(1)),
            max_files: limit,
            ..Self::from_stat(&stat, ticks, page_bytes, booted)
        }
    }

    fn from_stat(stat: &str, ticks: u64, page_bytes: u64, booted: Option<u64>) -> Self {
        // The name, in parentheses, may hold anything; what follows begins with field 3.
        let Some((_, fields)) = stat.rsplit_once(')') else {
            return Self::default();
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
        let time = |count: u64| Duration::from_secs_f64(count as f64 / ticks.max(1) as f64);
        Self {
            cpu_time: field(14)
                .zip(field(15))
                .map(|(user, system)| time(user + system)),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_bytes),
            started: field(22)
                .zip(booted)
                .map(|(after, booted)| Duration::from_secs(booted) + time(after)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 4 0 1000 8192 3 18446744073709551615";
        let process = Process::from_stat(stat, 100, 4096, Some(1_000_000));
        assert_eq!(process.cpu_time, Some(Duration::from_secs(4)));
        assert_eq!(process.virtual_bytes, Some(8192));
        assert_eq!(process.resident_bytes, Some(3 * 4096));
        assert_eq!(process.started, Some(Duration::from_secs(1_000_010)));
    }

    #[test]
    fn what_is_not_there_is_missing() {
        let process = Process::from_stat("", 100, 4096, None);
        assert!(process.cpu_time.is_none() && process.started.is_none());
    }
}
