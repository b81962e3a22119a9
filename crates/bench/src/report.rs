//! Medians and ratios.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::load::Measured;

/// What one measurement of a row found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reading {
    /// Operations one after the other.
    Rate(Measured),
    /// One number; less is better.
    Value { value: f64, unit: &'static str },
}

/// Measurements by row and peer.
pub(crate) struct Table {
    peers: Vec<String>,
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Vec<Reading>>>,
}

/// The middle of some numbers.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Medians, each number for itself.
fn median(all: &[Reading]) -> Option<Reading> {
    let rates: Vec<Measured> = all
        .iter()
        .filter_map(|reading| match reading {
            Reading::Rate(measured) => Some(*measured),
            Reading::Value { .. } => None,
        })
        .collect();
    let of = |pick: fn(&Measured) -> f64| middle(rates.iter().map(pick).collect());
    match all.first()? {
        Reading::Rate(_) => Some(Reading::Rate(Measured {
            per_second: of(|m| m.per_second),
            p50_ms: of(|m| m.p50_ms),
            p99_ms: of(|m| m.p99_ms),
            cpu_us: of(|m| m.cpu_us),
        })),
        Reading::Value { unit, .. } => {
            let values = all.iter().map(|reading| match reading {
                Reading::Value { value, .. } => *value,
                Reading::Rate(_) => 0.0,
            });
            Some(Reading::Value {
                value: middle(values.collect()),
                unit,
            })
        }
    }
}

fn ratio(a: Reading, b: Reading) -> Option<Reading> {
    match (a, b) {
        (Reading::Rate(a), Reading::Rate(b)) => Some(Reading::Rate(Measured {
            per_second: a.per_second / b.per_second,
            p50_ms: a.p50_ms / b.p50_ms,
            p99_ms: a.p99_ms / b.p99_ms,
            cpu_us: a.cpu_us / b.cpu_us,
        })),
        (Reading::Value { value: a, .. }, Reading::Value { value: b, .. }) => {
            Some(Reading::Value {
                value: a / b,
                unit: "",
            })
        }
        _ => None,
    }
}

fn json(reading: Reading) -> Value {
    match reading {
        Reading::Rate(m) => json!({
            "perSecond": m.per_second, "p50Ms": m.p50_ms, "p99Ms": m.p99_ms, "cpuUsPerOp": m.cpu_us,
        }),
        Reading::Value { value, unit } => json!({ "value": value, "unit": unit }),
    }
}

/// One line of figures, without a name before it.
pub(crate) fn figures(reading: Reading, is_ratio: bool) -> String {
    match reading {
        Reading::Rate(m) if is_ratio => format!(
            "{:>10.2} {:>9.2} {:>9.2} {:>11.2}",
            m.per_second, m.p50_ms, m.p99_ms, m.cpu_us
        ),
        Reading::Rate(m) => format!(
            "{:>10.0} {:>9.2} {:>9.2} {:>11.1}",
            m.per_second, m.p50_ms, m.p99_ms, m.cpu_us
        ),
        Reading::Value { value, unit } => {
            format!("{:>10} {:>9} {:>9} {value:>11.2} {unit}", "", "", "")
        }
    }
}

impl Table {
    pub(crate) fn new(peers: Vec<String>) -> Self {
        Self {
            peers,
            order: Vec::new(),
            rows: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, row: &str, peer: usize, reading: Reading) {
        if !self.order.iter().any(|known| known == row) {
            self.order.push(row.to_owned());
        }
        self.rows
            .entry(row.to_owned())
            .or_insert_with(|| vec![Vec::new(); self.peers.len()])[peer]
            .push(reading);
    }

    fn medians(&self, row: &str) -> Vec<Option<Reading>> {
        self.rows[row].iter().map(|all| median(all)).collect()
    }

    fn ratio(medians: &[Option<Reading>]) -> Option<Reading> {
        match medians {
            [Some(a), Some(b)] => ratio(*a, *b),
            _ => None,
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "\nmedians over the rounds; ratio = first / second; CPU is summed over the members"
        );
        println!(
            "{:<32} {:<8} {:>10} {:>9} {:>9} {:>11}",
            "", "", "per second", "p50 ms", "p99 ms", "CPU us/op"
        );
        for row in &self.order {
            let medians = self.medians(row);
            for (place, (name, median)) in self.peers.iter().zip(&medians).enumerate() {
                let title = if place == 0 { row.as_str() } else { "" };
                match median {
                    Some(reading) => {
                        println!("{title:<32} {name:<8} {}", figures(*reading, false));
                    }
                    None => println!("{title:<32} {name:<8} {:>10}", "-"),
                }
            }
            if let Some(ratio) = Self::ratio(&medians) {
                println!("{:<32} {:<8} {}", "", "ratio", figures(ratio, true));
            }
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .order
            .iter()
            .map(|row| {
                let medians = self.medians(row);
                let by_name: serde_json::Map<String, Value> = self
                    .peers
                    .iter()
                    .zip(&medians)
                    .filter_map(|(name, median)| Some((name.clone(), json((*median)?))))
                    .collect();
                json!({ "row": row, "medians": by_name, "ratio": Self::ratio(&medians).map(json) })
            })
            .collect();
        json!({ "peers": self.peers, "rows": rows })
    }

    /// Rows with a figure that makes no sense, whatever the machine was busy with.
    pub(crate) fn insane(&self) -> Vec<String> {
        let sane = |reading: &Reading| match reading {
            Reading::Rate(m) => m.per_second > 0.0 && m.p50_ms > 0.0 && m.p99_ms >= m.p50_ms,
            Reading::Value { value, .. } => *value > 0.0,
        };
        let bad = |row: &&String| {
            self.rows[*row]
                .iter()
                .any(|all| all.is_empty() || !all.iter().all(sane))
        };
        self.order.iter().filter(bad).cloned().collect()
    }
}
