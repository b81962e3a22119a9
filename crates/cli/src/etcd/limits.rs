//! Limits, compaction and checks as the flags want them.

use std::time::Duration;

use trivet_store_etcd::limits::MAX_REQUEST_BYTES_MAX;
use trivet_store_etcd::{AutoCompaction, Checks, StoreConfig};

use super::flags::Given;
use super::settings::duration;

/// How often etcd notes the remaining time of long leases where that is turned on.
const LEASE_CHECKPOINT: Duration = Duration::from_secs(300);

/// Fills in what was given; the rest stays as etcd has it.
pub(super) fn apply(given: &Given, config: &mut StoreConfig) -> Result<(), String> {
    if let Some(bytes) = number(given, "quota-backend-bytes")? {
        config.quota_bytes = bytes;
    }
    if let Some(bytes) = number::<usize>(given, "max-request-bytes")? {
        if bytes == 0 || bytes > MAX_REQUEST_BYTES_MAX {
            return Err(format!(
                "--max-request-bytes {bytes}: 1 to {MAX_REQUEST_BYTES_MAX} are possible"
            ));
        }
        config.max_request_bytes = bytes;
    }
    if let Some(count) = number(given, "max-txn-ops")? {
        config.max_txn_ops = count;
    }
    config.auto_compaction = AutoCompaction::parse(
        given.get("auto-compaction-mode").unwrap_or("periodic"),
        given.get("auto-compaction-retention").unwrap_or("0"),
    )
    .map_err(|error| error.to_string())?;
    config.lease_checkpoint = given
        .on("enable-lease-checkpoint", false)
        .then_some(LEASE_CHECKPOINT);
    // An alarm stays until somebody ends it: that is what runbooks count on.
    config.alarm_clears_itself = false;
    config.checks = Checks {
        initial: given.on("initial-corrupt-check", false),
        ..Checks::as_etcd()
    };
    if let Some(text) = given.get("corrupt-check-time") {
        let interval = duration(text)
            .ok_or_else(|| format!("--corrupt-check-time {text:?}: a duration is expected"))?;
        config.checks.compare = Some(interval).filter(|interval| !interval.is_zero());
    }
    Ok(())
}

fn number<T: std::str::FromStr>(given: &Given, name: &str) -> Result<Option<T>, String> {
    match given.get(name) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!(
                "invalid value {text:?} for flag -{name}: parse error"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use trivet_env::Env;

    use super::super::flags::parse;
    use super::*;

    fn applied(line: &str) -> Result<StoreConfig, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut config = StoreConfig::single(Env::real(), "/nowhere".into());
        apply(&parse(&words)?, &mut config).map(|()| config)
    }

    #[test]
    fn limits_reach_the_store() {
        let config = applied(
            "--quota-backend-bytes=53248 --max-request-bytes=1000 --max-txn-ops=7 \
             --auto-compaction-mode=revision --auto-compaction-retention=1000 \
             --experimental-enable-lease-checkpoint --corrupt-check-time=1m --initial-corrupt-check",
        )
        .unwrap();
        assert_eq!(config.quota_bytes, 53_248);
        assert_eq!((config.max_request_bytes, config.max_txn_ops), (1000, 7));
        assert_eq!(config.auto_compaction, Some(AutoCompaction::Revision(1000)));
        assert_eq!(config.lease_checkpoint, Some(LEASE_CHECKPOINT));
        assert!(config.checks.initial);
        assert_eq!(config.checks.compare, Some(Duration::from_secs(60)));
        let config = applied("--quota-backend-bytes=-1").unwrap();
        assert_eq!((config.quota_bytes, config.auto_compaction), (-1, None));
        assert!(config.lease_checkpoint.is_none() && !config.alarm_clears_itself);
        for bad in [
            "--max-txn-ops=x",
            "--max-request-bytes=0",
            "--max-request-bytes=99999999999",
            "--auto-compaction-mode=yearly",
            "--auto-compaction-retention=x",
            "--corrupt-check-time=x",
        ] {
            assert!(applied(bad).is_err(), "{bad}");
        }
    }
}
