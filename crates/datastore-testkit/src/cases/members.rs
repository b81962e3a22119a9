//! Several members of one replicated store: nobody can tell which one it talks to.

use std::time::Duration;

use trivet_datastore::{Expect, Revision, WriteOutcome};

use crate::Support::{Missing, Offered};
use crate::Verdict::{self, NotApplicable, Passed};
use crate::client::{key, keys, ok, prefix};
use crate::run::Bench;
use crate::workload::seed;

macro_rules! members {
    ($bench:expr) => {
        match $bench.members() {
            Offered(members) => members,
            Missing(reason) => return NotApplicable(reason),
        }
    };
}

pub(crate) async fn clusters_say_who_they_are(b: &mut Bench) -> Verdict {
    let members = members!(b);
    for c in &members {
        let cluster = c
            .store
            .cluster()
            .expect("a replicated store has membership");
        let status = ok(cluster.status().await);
        assert_eq!(status.members.len(), members.len());
        assert!(
            status
                .members
                .iter()
                .any(|member| member.id == status.local)
        );
    }
    Passed
}

pub(crate) async fn members_read_each_others_writes(b: &mut Bench) -> Verdict {
    let members = members!(b);
    for round in 0..6 {
        let value = round.to_string();
        let revision = members[round % members.len()].put("k", value.clone()).await;
        for c in &members {
            let page = c.list(key("k")).await;
            assert!(page.revision >= revision);
            assert_eq!(
                page.items[0].value, value,
                "a linearizable read on any member"
            );
        }
    }
    Passed
}

pub(crate) async fn members_agree_on_the_winner(b: &mut Bench) -> Verdict {
    let members = members!(b);
    for round in 0..5 {
        let name = format!("race/{round}");
        let attempts = members
            .iter()
            .map(|c| c.try_put(name.clone(), "x", Expect::Absent, None));
        let outcomes = futures_util::future::join_all(attempts).await;
        let won = |outcome| matches!(ok(outcome), WriteOutcome::Committed { .. });
        assert_eq!(outcomes.into_iter().filter(|o| won(o.clone())).count(), 1);
    }
    assert_eq!(b.client.revision().await, Revision(6));
    Passed
}

pub(crate) async fn members_share_leases(b: &mut Bench) -> Verdict {
    let members = members!(b);
    for (number, granter) in members.iter().enumerate() {
        let lease = granter.lease(Duration::from_secs(600)).await;
        for (other, c) in members.iter().enumerate() {
            assert_eq!(ok(c.store.keep_lease_alive(lease.id).await), lease);
            c.put_leased(format!("{number}/{other}"), lease.id).await;
        }
        ok(members[(number + 1) % members.len()].revoke(lease.id).await);
        assert_eq!(keys(&granter.list(prefix("")).await), [""; 0]);
    }
    Passed
}

pub(crate) async fn members_are_linearizable_together(b: &mut Bench) -> Verdict {
    let members = members!(b);
    let seed = seed();
    let mut history = super::concurrency::run_mixed(&members, seed, 60 * b.limits.load).await;
    super::concurrency::check(&mut history, &b.client, seed).await;
    Passed
}

pub(crate) async fn members_watch_one_history(b: &mut Bench) -> Verdict {
    let members = members!(b);
    super::concurrency::run_watched(&members, seed(), 40 * b.limits.load, false).await;
    Passed
}
