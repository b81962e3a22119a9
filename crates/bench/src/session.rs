//! One run: which rows in which order.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::peer::Peer;
use crate::report::{Reading, Table, figures};
use crate::rows::{self, Row};
use crate::{life, load};

/// Keys of the large part.
const LARGE_KEYS: u64 = 1_000_000;

/// What to do.
pub(crate) struct Plan {
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) keys: u64,
    pub(crate) quick: bool,
    pub(crate) large: bool,
    /// Texts one of which a row's name contains; none: every row.
    pub(crate) rows: Vec<String>,
}

/// A run over peers.
pub(crate) struct Session<'a> {
    peers: Vec<Peer>,
    plan: Plan,
    say: &'a dyn Fn(&str),
    table: Table,
}

impl<'a> Session<'a> {
    pub(crate) fn new(peers: Vec<Peer>, plan: Plan, say: &'a dyn Fn(&str)) -> Self {
        let names = peers.iter().map(|peer| peer.name().to_owned()).collect();
        Self {
            table: Table::new(names),
            peers,
            plan,
            say,
        }
    }

    /// Goes through everything.
    pub(crate) async fn run(mut self) -> Result<Table> {
        self.beginning().await?;
        self.rounds().await?;
        self.snapshots().await?;
        self.fail_over().await?;
        if self.plan.large {
            self.large().await?;
        }
        Ok(self.table)
    }

    fn wanted(&self, name: &str) -> bool {
        let matches = |text: &String| match text.strip_suffix('$') {
            Some(end) => name.ends_with(end),
            None => name.contains(text.as_str()),
        };
        self.plan.rows.is_empty() || self.plan.rows.iter().any(matches)
    }

    fn record(&mut self, row: &str, peer: usize, reading: Reading) {
        let name = self.peers[peer].name();
        (self.say)(&format!("{row:<32} {name:<8} {}", figures(reading, false)));
        self.table.add(row, peer, reading);
    }

    /// Memory of an idle cluster, after loading and after a restart: before anything else makes
    /// the sides' histories differ.
    async fn beginning(&mut self) -> Result<()> {
        let count = thousands(self.plan.keys);
        let (idle, loading) = ("RSS idle", format!("load {count} keys of 1 KiB"));
        let loaded = format!("RSS after {count} keys");
        let (restart, restarted) = (
            format!("restart with {count} keys"),
            format!("RSS after restart with {count}"),
        );
        for place in 0..self.peers.len() {
            if self.wanted(idle) {
                let reading = life::memory(&self.peers[place]).await;
                self.record(idle, place, reading);
            }
            // What follows reads these keys.
            let took = load::fill(&self.peers[place], 0, self.plan.keys, 1).await?;
            let value = took.as_secs_f64();
            if self.wanted(&loading) {
                self.record(&loading, place, Reading::Value { value, unit: "s" });
            }
            if self.wanted(&loaded) {
                let reading = life::memory(&self.peers[place]).await;
                self.record(&loaded, place, reading);
            }
            if self.wanted(&restart) || self.wanted(&restarted) {
                let [took, memory] = life::restart(&mut self.peers[place]).await?;
                self.record(&restart, place, took);
                self.record(&restarted, place, memory);
            }
        }
        Ok(())
    }

    /// The rows that are measured in turns.
    async fn rounds(&mut self) -> Result<()> {
        let rows: Vec<Row> = rows::all(self.plan.quick)
            .into_iter()
            .filter(|row| self.wanted(&row.name()))
            .collect();
        let length = Duration::from_secs_f64(self.plan.seconds);
        for round in 0..self.plan.rounds {
            for row in &rows {
                for place in self.turns(round) {
                    let peer = &self.peers[place];
                    let result = row.measure(peer, length, self.plan.keys, round).await;
                    let result =
                        result.with_context(|| format!("{} on {}", row.name(), peer.name()))?;
                    self.record(&row.name(), place, Reading::Rate(result));
                }
            }
        }
        Ok(())
    }

    /// Who goes first changes, so that neither always meets the other's leftovers.
    fn turns(&self, round: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.peers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    async fn snapshots(&mut self) -> Result<()> {
        let name = format!("snapshot, {} keys", thousands(self.plan.keys));
        if self.wanted(&name) {
            for place in 0..self.peers.len() {
                self.snapshot(&name, place, self.plan.keys).await?;
            }
        }
        Ok(())
    }

    async fn snapshot(&mut self, name: &str, place: usize, keys: u64) -> Result<()> {
        let found = life::snapshot(&self.peers[place], keys).await?;
        let Some(found) = found else {
            (self.say)(&format!(
                "{name:<32} {:<8} no such call yet",
                self.peers[place].name()
            ));
            return Ok(());
        };
        self.record(name, place, found.took);
        self.record(&format!("{name}: RSS"), place, found.memory);
        self.record(
            &format!("{name}: puts beside"),
            place,
            Reading::Rate(found.writes),
        );
        Ok(())
    }

    async fn fail_over(&mut self) -> Result<()> {
        let name = "failover (kill -9)";
        if !self.wanted(name) {
            return Ok(());
        }
        for round in 0..self.plan.rounds {
            for place in self.turns(round) {
                let reading = life::fail_over(&mut self.peers[place]).await?;
                self.record(name, place, reading);
            }
        }
        Ok(())
    }

    /// A million keys: 1 GiB of values.
    async fn large(&mut self) -> Result<()> {
        let more = LARGE_KEYS.saturating_sub(self.plan.keys);
        for place in 0..self.peers.len() {
            let took = load::fill(&self.peers[place], self.plan.keys, more, 32).await?;
            let value = took.as_secs_f64();
            self.record(
                "load up to 1 GiB",
                place,
                Reading::Value { value, unit: "s" },
            );
            let memory = life::memory(&self.peers[place]).await;
            self.record("RSS with 1 GiB", place, memory);
            self.snapshot("snapshot of 1 GiB", place, LARGE_KEYS)
                .await?;
            let [took, memory] = life::restart(&mut self.peers[place]).await?;
            self.record("restart with 1 GiB", place, took);
            self.record("RSS after restart with 1 GiB", place, memory);
        }
        Ok(())
    }
}

/// A count as people say it.
fn thousands(count: u64) -> String {
    if count.is_multiple_of(1000) {
        format!("{}k", count / 1000)
    } else {
        count.to_string()
    }
}
