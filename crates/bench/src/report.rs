//! Medians and ratios.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::load::Measured;

/// Measurements by row and peer.
pub(crate) struct Table {
    peers: Vec<String>,
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Vec<Measured>>>,
    resident_mib: Vec<u64>,
}

impl Table {
    pub(crate) fn new(peers: Vec<String>) -> Self {
        Self {
            peers,
            order: Vec::new(),
            rows: BTreeMap::new(),
            resident_mib: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: String, peer: usize, measured: Measured) {
        if !self.order.contains(&row) {
            self.order.push(row.clone());
        }
        self.rows
            .entry(row)
            .or_insert_with(|| vec![Vec::new(); self.peers.len()])[peer]
            .push(measured);
    }

    /// Largest member's memory after loading, by peer.
    pub(crate) fn set_resident_mib(&mut self, resident: Vec<u64>) {
        self.resident_mib = resident;
    }

    fn median(&self, row: &str, peer: usize) -> Measured {
        let all = &self.rows[row][peer];
        let middle = |pick: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = all.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        Measured {
            per_second: middle(|m| m.per_second),
            p50_ms: middle(|m| m.p50_ms),
            p99_ms: middle(|m| m.p99_ms),
            cpu_us: middle(|m| m.cpu_us),
        }
    }

    pub(crate) fn print(&self) {
        println!("\nmedians over the rounds; ratio = first / second");
        println!(
            "{:<28} {:<8} {:>10} {:>9} {:>9} {:>11}",
            "", "", "per second", "p50 ms", "p99 ms", "CPU us/op"
        );
        for row in &self.order {
            for (place, name) in self.peers.iter().enumerate() {
                let m = self.median(row, place);
                println!(
                    "{:<28} {:<8} {:>10.0} {:>9.2} {:>9.2} {:>11.1}",
                    if place == 0 { row.as_str() } else { "" },
                    name,
                    m.per_second,
                    m.p50_ms,
                    m.p99_ms,
                    m.cpu_us
                );
            }
            if let Some(r) = self.ratio(row) {
                println!(
                    "{:<28} {:<8} {:>10.2} {:>9.2} {:>9.2} {:>11.2}",
                    "", "ratio", r.per_second, r.p50_ms, r.p99_ms, r.cpu_us
                );
            }
        }
        println!(
            "RSS of the largest member after loading (MiB): {:?}",
            self.resident_mib
        );
    }

    fn ratio(&self, row: &str) -> Option<Measured> {
        if self.peers.len() != 2 {
            return None;
        }
        let (a, b) = (self.median(row, 0), self.median(row, 1));
        Some(Measured {
            per_second: a.per_second / b.per_second,
            p50_ms: a.p50_ms / b.p50_ms,
            p99_ms: a.p99_ms / b.p99_ms,
            cpu_us: a.cpu_us / b.cpu_us,
        })
    }

    pub(crate) fn json(&self) -> Value {
        let number = |m: Measured| {
            json!({
                "perSecond": m.per_second, "p50Ms": m.p50_ms, "p99Ms": m.p99_ms, "cpuUsPerOp": m.cpu_us,
            })
        };
        let rows: Vec<Value> = self
            .order
            .iter()
            .map(|row| {
                let medians: serde_json::Map<String, Value> = self
                    .peers
                    .iter()
                    .enumerate()
                    .map(|(place, name)| (name.clone(), number(self.median(row, place))))
                    .collect();
                json!({ "row": row, "medians": medians, "ratio": self.ratio(row).map(number) })
            })
            .collect();
        json!({ "peers": self.peers, "residentMib": self.resident_mib, "rows": rows })
    }
}
