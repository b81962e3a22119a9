//! `/health`, and the single checks of `/livez` and `/readyz`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::{Response, StatusCode};
use tonic::body::Body;

use super::{query, text, with_type};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::service::Refusal;
use crate::state::Alarm;

/// One thing that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, engine: &Engine) -> Result<(), String> {
        match self {
            Self::DataCorruption => match engine.alarms().any(Alarm::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            },
            Self::SerializableRead => read(engine).await,
            Self::LinearizableRead => {
                barrier(engine).await?;
                read(engine).await
            }
            Self::NonLearner => match engine.is_learner() {
                true => Err("not supported for learner".to_owned()),
                false => Ok(()),
            },
        }
    }
}

/// Every check of every page; [`HealthMetrics`](crate::metrics::HealthMetrics) has a row for each.
pub(crate) const CHECKS: [(&str, Check); 5] = [
    ("livez", Check::SerializableRead),
    ("readyz", Check::DataCorruption),
    ("readyz", Check::LinearizableRead),
    ("readyz", Check::NonLearner),
    ("readyz", Check::SerializableRead),
];

/// What a request wants to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// `/health`.
    Health {
        /// Alarms that do not count.
        exclude: BTreeSet<String>,
        /// Whether it is about this member only.
        serializable: bool,
    },
    /// `/livez`, `/readyz`, or one check of theirs: places in [`CHECKS`].
    Checks { checks: Vec<usize>, verbose: bool },
}

impl Question {
    pub(super) fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let pairs: Vec<_> = query::pairs(query.unwrap_or_default()).collect();
        let exclude: BTreeSet<String> = pairs
            .iter()
            .filter(|(name, _)| name == "exclude")
            .map(|(_, value)| value.clone())
            .collect();
        if path == "/health" {
            let first = pairs.iter().find(|(name, _)| name == "serializable");
            let serializable = first.is_some_and(|(_, value)| value == "true");
            return Some(Self::Health {
                exclude,
                serializable,
            });
        }
        let path = path.strip_prefix('/')?;
        let (page, single) = match path.split_once('/') {
            Some((page, check)) => (page, Some(check)),
            None => (path, None),
        };
        let checks: Vec<usize> = CHECKS
            .iter()
            .enumerate()
            .filter(|(_, (of, check))| {
                *of == page
                    && match single {
                        Some(single) => check.name() == single,
                        None => !exclude.contains(check.name()),
                    }
            })
            .map(|(place, _)| place)
            .collect();
        let known = CHECKS.iter().any(|(of, _)| *of == page);
        // A page stays a page when all of its checks are excluded.
        (known && (single.is_none() || !checks.is_empty())).then(|| Self::Checks {
            checks,
            verbose: pairs.iter().any(|(name, _)| name == "verbose"),
        })
    }

    pub(super) async fn answer(self, engine: &Engine) -> Response<Body> {
        match self {
            Self::Health {
                exclude,
                serializable,
            } => health(engine, &exclude, serializable).await,
            Self::Checks { checks, verbose } => run(engine, &checks, verbose).await,
        }
    }
}

async fn health(engine: &Engine, exclude: &BTreeSet<String>, serializable: bool) -> Response<Body> {
    let problem = problem(engine, exclude, serializable).await;
    let counters = &engine.metrics.health;
    match problem {
        None => {
            counters.successes.increment();
            let body = r#"{"health":"true","reason":""}"#;
            with_type(StatusCode::OK, "text/plain; charset=utf-8", body)
        }
        Some(reason) => {
            counters.failures.increment();
            // Reasons are texts of this crate, without anything that JSON would escape.
            let body = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

async fn problem(
    engine: &Engine,
    exclude: &BTreeSet<String>,
    serializable: bool,
) -> Option<String> {
    let alarms = engine.alarms();
    let raised = alarms.iter().map(|raised| raised.alarm.name());
    if let Some(alarm) = raised.into_iter().find(|alarm| !exclude.contains(*alarm)) {
        return Some(format!("ALARM {alarm}"));
    }
    if !serializable {
        if !engine.has_leader() {
            return Some("RAFT NO LEADER".to_owned());
        }
        if let Err(error) = barrier(engine).await {
            return Some(format!("RANGE ERROR:{error}"));
        }
    }
    let failed = read(engine).await.err()?;
    Some(format!("RANGE ERROR:{failed}"))
}

async fn run(engine: &Engine, checks: &[usize], verbose: bool) -> Response<Body> {
    let (mut page, mut well) = (String::new(), true);
    for place in checks {
        let (_, check) = CHECKS[*place];
        let counters = &engine.metrics.health.checks[*place];
        let name = check.name();
        // Writing to a String cannot fail.
        let _ = match check.run(engine).await {
            Ok(()) => {
                counters.successes.increment();
                counters.last.set(1);
                writeln!(page, "[+]{name} ok")
            }
            Err(error) => {
                well = false;
                counters.errors.increment();
                counters.last.set(0);
                writeln!(page, "[-]{name} failed: {error}")
            }
        };
    }
    match (well, verbose) {
        (true, true) => text(StatusCode::OK, page + "ok\n"),
        (true, false) => text(StatusCode::OK, "ok\n"),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, page + "\n"),
    }
}

/// Whether the cluster answers; waits as long as a request does.
async fn barrier(engine: &Engine) -> Result<(), String> {
    let outcome = engine.barrier().await;
    outcome.map_err(|failure| Refusal::from(&failure).text().to_owned())
}

/// Whether this member's state can be read.
async fn read(engine: &Engine) -> Result<(), String> {
    let mut first = trivet_mvcc::RangeOp::new(trivet_mvcc::KeyRange::all());
    first.limit = 1;
    first.keys_only = true;
    let outcome = engine.shared.range(&first).await;
    outcome
        .map(drop)
        .map_err(|error| Refusal::from(&Failure::from(error)).text().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(path: &str, query: &str) -> Option<(Vec<&'static str>, bool)> {
        match Question::parse(path, Some(query))? {
            Question::Checks { checks, verbose } => {
                let names = checks.iter().map(|place| CHECKS[*place].1.name());
                Some((names.collect(), verbose))
            }
            Question::Health { .. } => None,
        }
    }

    #[test]
    fn pages_and_single_checks_are_told_apart() {
        assert_eq!(
            checks("/livez", ""),
            Some((vec!["serializable_read"], false))
        );
        assert_eq!(
            checks(
                "/readyz",
                "verbose&exclude=linearizable_read&exclude=nonsense"
            ),
            Some((
                vec!["data_corruption", "non_learner", "serializable_read"],
                true
            ))
        );
        assert_eq!(
            checks("/livez", "exclude=serializable_read"),
            Some((vec![], false))
        );
        assert_eq!(
            checks("/readyz/non_learner", "exclude=non_learner"),
            Some((vec!["non_learner"], false))
        );
        for path in [
            "/livez/non_learner",
            "/readyz/",
            "/readyz/x",
            "/live",
            "/",
            "",
        ] {
            assert_eq!(checks(path, ""), None, "{path}");
        }
    }

    #[test]
    fn only_true_is_true() {
        let serializable = |query| match Question::parse("/health", Some(query)) {
            Some(Question::Health { serializable, .. }) => serializable,
            _ => panic!("not a health question"),
        };
        assert!(serializable("a=b&serializable=true"));
        assert!(!serializable("serializable=false&serializable=true"));
        assert!(!serializable("serializable"));
        assert!(!serializable(""));
    }
}
