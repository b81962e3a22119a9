//! The comparison: every operation to both sides, and every answer beside the other.

use std::collections::BTreeMap;

use anyhow::Result;
use tokio::time::Instant;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::answer::Answer;
use crate::differences::{Known, WatchQuirk};
use crate::generate::{Generator, View};
use crate::history::{History, Watched, is_delete, mod_revision};
use crate::op::{Op, WatchStep};
use crate::side::{PATIENCE, Side};
use crate::stream::{Seen, WatchSide};
use crate::ties;

/// Where operations come from.
pub enum Source {
    /// So many new ones.
    Generated(Box<Generator>, usize),
    /// These, again.
    Given(Vec<Op>),
}

/// The two sides differ.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// Number of the operation.
    pub index: usize,
    /// The operation; for watches the one after which they were compared.
    pub op: String,
    /// Our answer.
    pub ours: String,
    /// The genuine one.
    pub theirs: String,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Every operation that was sent.
    pub ops: Vec<Op>,
    /// Where the two differ.
    pub mismatches: Vec<Mismatch>,
    /// How many of each kind were sent.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Refusals that both gave, by text.
    pub refusals: BTreeMap<String, usize>,
    /// Known differences that were met.
    pub tolerated: BTreeMap<&'static str, usize>,
    /// Events that watches delivered.
    pub events: usize,
}

/// Watches are compared after so many operations, and before whatever would race with them.
const WATCHES_EVERY: usize = 25;

/// Runs operations on both sides until the source is dry, the stores have different revisions,
/// or this many mismatches were found.
pub async fn run(
    ours: &mut Side,
    theirs: &mut Side,
    source: Source,
    enough: usize,
) -> Result<Report> {
    let mut comparison = Comparison::new(ours, theirs).await?;
    let (mut generator, mut given, count) = match source {
        Source::Generated(generator, count) => (Some(generator), Vec::new().into_iter(), count),
        Source::Given(ops) => {
            let count = ops.len();
            (None, ops.into_iter(), count)
        }
    };
    for index in 0..count {
        let op = match &mut generator {
            Some(generator) => generator.next(&comparison.view),
            None => match given.next() {
                Some(op) => op,
                None => break,
            },
        };
        comparison.step(index, &op).await?;
        let last = index + 1 == count;
        if last || (index + 1).is_multiple_of(WATCHES_EVERY) {
            comparison.watches(index, &op).await?;
        }
        comparison.report.ops.push(op);
        if comparison.diverged || comparison.report.mismatches.len() >= enough {
            break;
        }
    }
    let mut report = comparison.report;
    report.tolerated = comparison.known.met;
    Ok(report)
}

struct Comparison<'a> {
    ours: &'a mut Side,
    theirs: &'a mut Side,
    view: View,
    known: Known,
    /// Everything that happened, as the genuine server tells it.
    observer: WatchSide,
    history: History,
    watched: Vec<Watched>,
    /// Whether a watch may be catching up.
    unsettled: bool,
    /// The stores are in different states: nothing further can be compared.
    diverged: bool,
    report: Report,
}

impl<'a> Comparison<'a> {
    async fn new(ours: &'a mut Side, theirs: &'a mut Side) -> Result<Self> {
        let known = Known::of(&theirs.version);
        let view = View {
            spared: known.spared(),
            ..View::default()
        };
        let mut observer = theirs.observe();
        let everything = pb::WatchCreateRequest {
            range_end: "\0".into(),
            ..Default::default()
        };
        anyhow::ensure!(
            observer
                .create(&theirs.names, everything, PATIENCE)
                .await
                .is_some(),
            "the genuine server makes no watch"
        );
        Ok(Self {
            ours,
            theirs,
            view,
            known,
            observer,
            history: History::default(),
            watched: Vec::new(),
            unsettled: false,
            diverged: false,
            report: Report::default(),
        })
    }

    /// Sends one operation to both and compares the answers.
    async fn step(&mut self, index: usize, op: &Op) -> Result<()> {
        if op.needs_quiet_watches() {
            self.watches(index, op).await?;
        }
        *self.report.kinds.entry(op.kind()).or_default() += 1;
        let (mut ours, mut theirs) = tokio::join!(self.ours.perform(op), self.theirs.perform(op));
        match op {
            Op::Watch(stream, WatchStep::Cancel(id)) if self.is_watched(*stream, *id) => {
                (ours, theirs) = tokio::join!(
                    self.ours.canceled(*stream, *id),
                    self.theirs.canceled(*stream, *id)
                );
            }
            Op::Watch(stream, WatchStep::Progress) => {
                self.progress(index, op, *stream).await;
                return Ok(());
            }
            _ => {}
        }
        ties::settle(op, &mut ours);
        ties::settle(op, &mut theirs);
        if ours != theirs && !self.known.excuses(op, &ours, &theirs) {
            self.mismatch(index, op, &ours, &theirs);
        }
        if let Some((code, text)) = theirs.refusal()
            && ours == theirs
        {
            // Without sizes.
            let text = text.split(" (").next().unwrap_or(text);
            let text = format!("{code:?} {text}");
            *self.report.refusals.entry(text).or_default() += 1;
        }
        let revisions = (ours.revision(), theirs.revision());
        self.diverged |= matches!(revisions, (Some(ours), Some(theirs)) if ours != theirs);
        self.learn(op, &theirs);
        Ok(())
    }

    /// Takes in what an operation did.
    fn learn(&mut self, op: &Op, answer: &Answer) {
        let view = &mut self.view;
        if let Some(revision) = answer.revision() {
            view.current = view.current.max(revision);
        }
        match (op, answer) {
            (Op::Compact(request), Answer::Compact(_)) => view.compacted = request.revision,
            (Op::Grant(_), Answer::Grant(granted)) => {
                view.dead_leases.retain(|id| *id != granted.id);
                view.leases.push(granted.id);
            }
            (Op::Revoke(id), Answer::Revoke(_)) => {
                view.leases.retain(|lease| lease != id);
                view.dead_leases.push(*id);
            }
            (Op::Watch(stream, step), answer) => match (step, answer) {
                (WatchStep::Open, _) => view.streams.push(Some(Vec::new())),
                (WatchStep::HalfClose, _) => view.streams[*stream] = None,
                (WatchStep::Create(request), Answer::Watch(created)) if !created.canceled => {
                    let watch = Watched::new(*stream, request, created, view.compacted);
                    self.unsettled |= watch.start <= view.current;
                    if let Some(ids) = &mut view.streams[*stream] {
                        ids.push(watch.id);
                    }
                    self.watched.push(watch);
                }
                (WatchStep::Cancel(id), Answer::Watch(_)) => self.forget(*stream, *id),
                _ => {}
            },
            _ => {}
        }
    }

    fn is_watched(&self, stream: usize, id: i64) -> bool {
        self.watched
            .iter()
            .any(|watch| (watch.stream, watch.id) == (stream, id))
    }

    fn forget(&mut self, stream: usize, id: i64) {
        self.watched
            .retain(|watch| (watch.stream, watch.id) != (stream, id));
        if let Some(Some(ids)) = self.view.streams.get_mut(stream) {
            ids.retain(|other| *other != id);
        }
    }

    fn mismatch(
        &mut self,
        index: usize,
        op: &Op,
        ours: &impl std::fmt::Debug,
        theirs: &impl std::fmt::Debug,
    ) {
        self.report.mismatches.push(Mismatch {
            index,
            op: short(op),
            ours: short(ours),
            theirs: short(theirs),
        });
    }

    /// Compares the answers to a progress request.
    async fn progress(&mut self, index: usize, op: &Op, stream: usize) {
        let current = self.view.current;
        let mut watches = self
            .watched
            .iter()
            .filter(|watch| watch.stream == stream)
            .peekable();
        let due = watches.peek().is_some() && watches.all(|watch| watch.start <= current);
        if due {
            let (ours, theirs) =
                tokio::join!(self.ours.progressed(stream), self.theirs.progressed(stream));
            if ours != theirs || ours != Some(Seen::Progress(current)) {
                self.mismatch(index, op, &ours, &theirs);
            }
        } else if self.known.has(WatchQuirk::ProgressAlways)
            && self.theirs.progressed(stream).await.is_some()
        {
            self.known.meet(WatchQuirk::ProgressAlways);
        }
    }

    /// Waits until every watch has delivered what is due, then compares what they did deliver.
    async fn watches(&mut self, index: usize, op: &Op) -> Result<()> {
        if self.diverged {
            return Ok(());
        }
        self.observe().await;
        if std::mem::take(&mut self.unsettled) {
            tokio::try_join!(self.ours.settle(), self.theirs.settle())?;
        }
        let tombstones = !self.known.has(WatchQuirk::TombstoneLost);
        let deadline = Instant::now() + PATIENCE;
        for watch in &self.watched {
            let due = self
                .history
                .due(watch, tombstones)
                .saturating_sub(watch.compared);
            let (id, doomed) = (watch.id, watch.doomed);
            let enough = move |stream: &WatchSide| {
                stream.has_ended() || stream.canceled(id) || (!doomed && stream.events(id) >= due)
            };
            for side in [&mut *self.ours, &mut *self.theirs] {
                // Whoever is late is found out below.
                side.streams[watch.stream]
                    .wait(&side.names, deadline - Instant::now(), enough)
                    .await;
            }
        }
        for stream in 0..self.view.streams.len() {
            let (ours, theirs) = (
                &mut self.ours.streams[stream],
                &mut self.theirs.streams[stream],
            );
            let broken = [ours.take_broken(), theirs.take_broken()];
            let ends = [ours.end().cloned(), theirs.end().cloned()];
            let (mut ours, theirs) = (ours.take(), theirs.take());
            for (id, seen) in &mut ours {
                self.excuse_tombstones(stream, *id, seen, theirs.get(id));
                self.excuse_previous(stream, *id, seen, theirs.get(id));
            }
            ours.retain(|_, seen| !seen.is_empty());
            if ours != theirs {
                let told = |seen: &BTreeMap<i64, Vec<Seen>>| {
                    let different: Vec<_> = seen
                        .iter()
                        .filter(|(id, list)| ours.get(id) != theirs.get(id) && !list.is_empty())
                        .collect();
                    format!("stream {stream}: {different:?}")
                };
                self.mismatch(index, op, &told(&ours), &told(&theirs));
            }
            if broken != [Vec::<String>::new(), Vec::new()] {
                self.mismatch(index, op, &broken[0], &broken[1]);
            }
            if ends[0] != ends[1] {
                self.mismatch(index, op, &ends[0], &ends[1]);
                self.diverged = true;
            }
            self.count(stream, &theirs);
        }
        Ok(())
    }

    /// Takes in everything up to the newest known revision.
    async fn observe(&mut self) {
        let current = self.view.current;
        let mut newest = self.history.revision();
        while newest < current {
            let more = self
                .observer
                .wait(&self.theirs.names, PATIENCE, |stream| stream.events(0) > 0)
                .await;
            for seen in self.observer.take().remove(&0).unwrap_or_default() {
                if let Seen::Event(event) = seen {
                    self.history.push(*event);
                }
            }
            newest = self.history.revision();
            if !more {
                return;
            }
        }
    }

    /// Drops deletions at the compacted revision that older servers forget.
    fn excuse_tombstones(
        &mut self,
        stream: usize,
        id: i64,
        ours: &mut Vec<Seen>,
        theirs: Option<&Vec<Seen>>,
    ) {
        if !self.known.has(WatchQuirk::TombstoneLost) {
            return;
        }
        let Some(watch) = self
            .watched
            .iter()
            .find(|watch| (watch.stream, watch.id) == (stream, id))
        else {
            return;
        };
        let lost = |seen: &Seen| {
            matches!(seen, Seen::Event(event)
                if is_delete(event)
                    && mod_revision(event) == watch.compacted
                    && !theirs.is_some_and(|theirs| theirs.contains(seen)))
        };
        let before = ours.len();
        ours.retain(|seen| !lost(seen));
        if ours.len() < before {
            self.known.meet(WatchQuirk::TombstoneLost);
        }
    }

    /// Drops what was there before an event of the compacted revision, where only ours tells it.
    fn excuse_previous(
        &mut self,
        stream: usize,
        id: i64,
        ours: &mut [Seen],
        theirs: Option<&Vec<Seen>>,
    ) {
        let Some(watch) = self
            .watched
            .iter()
            .find(|watch| (watch.stream, watch.id) == (stream, id))
        else {
            return;
        };
        for (ours, theirs) in ours.iter_mut().zip(theirs.into_iter().flatten()) {
            if let (Seen::Event(ours), Seen::Event(theirs)) = (ours, theirs)
                && mod_revision(ours) == watch.compacted
                && theirs.prev_kv.is_none()
                && ours.prev_kv.take().is_some()
            {
                self.known.meet(WatchQuirk::PreviousAtCompaction);
            }
        }
    }

    fn count(&mut self, stream: usize, seen: &BTreeMap<i64, Vec<Seen>>) {
        for (id, seen) in seen {
            let events = seen
                .iter()
                .filter(|seen| matches!(seen, Seen::Event(_)))
                .count();
            self.report.events += events;
            for watch in &mut self.watched {
                if (watch.stream, watch.id) == (stream, *id) {
                    watch.compared += events;
                }
            }
            if seen.iter().any(|seen| matches!(seen, Seen::Canceled(_))) {
                self.forget(stream, *id);
            }
        }
    }
}

/// Large values would hide the rest: runs of one character are cut short, and so is the whole.
fn short(what: &impl std::fmt::Debug) -> String {
    const LONGEST: usize = 6000;
    const LONGEST_RUN: usize = 12;
    let mut text = String::new();
    let (mut last, mut run) = (None, 0);
    for character in format!("{what:?}").chars() {
        run = if last == Some(character) { run + 1 } else { 1 };
        last = Some(character);
        if run == LONGEST_RUN {
            text.push('…');
        }
        if run < LONGEST_RUN {
            text.push(character);
        }
        if text.len() > LONGEST {
            text.push('…');
            break;
        }
    }
    text
}
