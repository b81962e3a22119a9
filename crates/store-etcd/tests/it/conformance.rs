//! The promises of every datastore, on one member and on three.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trivet_datastore::Datastore;
use trivet_datastore_testkit::{Limits, Stop, Subject, Support};
use trivet_env::Env;
use trivet_sim::SimDisk;

use crate::support::{Member, Three, eventually, settings};

/// The quick settings of these tests allow tight limits.
fn limits() -> Limits {
    Limits {
        progress_within: Some(Duration::from_secs(5)),
        model_runs: 4,
        model_operations: 40,
        ..Limits::default()
    }
}

/// A member alone, on a simulated disk that can lose what was not synced.
struct One {
    disk: SimDisk,
    seed: u64,
    member: Member,
}

async fn on(disk: &SimDisk) -> Member {
    let env = Env {
        disk: Arc::new(disk.clone()),
        ..Env::real()
    };
    let member = Member::open(settings(env, PathBuf::from("/db/trivet"))).await;
    eventually("the store is writable", || async {
        member.store.status().await.unwrap().writable
    })
    .await;
    member
}

async fn one() -> One {
    let disk = SimDisk::new();
    let member = on(&disk).await;
    One {
        disk,
        seed: 1,
        member,
    }
}

#[async_trait]
impl Subject for One {
    fn store(&self) -> Arc<dyn Datastore> {
        self.member.store.clone()
    }

    fn members(&self) -> Support<Vec<Arc<dyn Datastore>>> {
        Support::Missing("this subject is one member; the other has three")
    }

    async fn reopen(&mut self, stop: Stop) -> Support<()> {
        match stop {
            Stop::Clean => self.member.store.shutdown().await,
            Stop::Kill => {
                self.seed += 1;
                self.disk.crash();
                let image = self.disk.crash_image(self.seed);
                // What is left of the old process only meets a dead disk.
                self.member.store.shutdown().await;
                self.disk = image;
            }
        }
        self.member = on(&self.disk).await;
        Support::Offered(())
    }

    fn limits(&self) -> Limits {
        limits()
    }
}

#[async_trait]
impl Subject for Three {
    fn store(&self) -> Arc<dyn Datastore> {
        // Not the founder, which leads: writes are forwarded.
        self.members[1].store.clone()
    }

    fn members(&self) -> Support<Vec<Arc<dyn Datastore>>> {
        let store = |member: &Member| -> Arc<dyn Datastore> { member.store.clone() };
        Support::Offered(self.members.iter().map(store).collect())
    }

    async fn reopen(&mut self, stop: Stop) -> Support<()> {
        if stop == Stop::Kill {
            return Support::Missing("members on the real disk cannot lose unsynced writes");
        }
        self.shutdown().await;
        for member in &mut self.members {
            let config = member.config.clone();
            *member = Member::open(config).await;
        }
        for member in &self.members {
            eventually("every member is writable", || async {
                member.store.status().await.unwrap().writable
            })
            .await;
        }
        Support::Offered(())
    }

    fn limits(&self) -> Limits {
        limits()
    }

    /// The members go down with the runtime of the case: a clean stop is for `reopen`.
    async fn finish(&mut self) {}
}

mod one_member {
    trivet_datastore_testkit::conformance!(super::one);
}

mod three_members {
    trivet_datastore_testkit::conformance!(super::Three::start);
}
