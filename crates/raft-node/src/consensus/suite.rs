//! The library's own tests of log storage and state machine, against ours.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use trivet_env::Env;
use trivet_wal::{Wal, WalOptions};

use crate::api::{AppliedBatch, LogPosition, SnapshotSource, StateMachine};
use crate::consensus::fetch::Fetcher;
use crate::consensus::log::LogStore;
use crate::consensus::machine::MachineAdapter;
use crate::consensus::{StoredMembership, TypeConfig};
use crate::failure::Failure;

#[derive(Default)]
struct Nothing(LogPosition);

struct Empty;

impl SnapshotSource for Empty {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

impl StateMachine for Nothing {
    fn applied(&self) -> LogPosition {
        self.0
    }

    fn durable(&self) -> LogPosition {
        self.0
    }

    fn apply(&mut self, batch: &AppliedBatch) -> io::Result<Vec<Bytes>> {
        self.0 = batch.position;
        Ok(batch.commands.clone())
    }

    fn checkpoint(&mut self, _force: bool) -> io::Result<()> {
        Ok(())
    }

    fn snapshot(&mut self) -> io::Result<(LogPosition, Box<dyn SnapshotSource>)> {
        Ok((self.0, Box::new(Empty)))
    }

    fn install(
        &mut self,
        position: LogPosition,
        _: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> io::Result<()> {
        self.0 = position;
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, MachineAdapter, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore, MachineAdapter), openraft::StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let env = Env::real();
        let (wal, _) =
            Wal::open(env.disk, &dir.path().join("log"), WalOptions::new(7)).expect("a log");
        let failure = Arc::new(Failure::new(CancellationToken::new()));
        let log = LogStore::new(wal, dir.path().join("log"), failure.clone());
        let (machine, _thread) = MachineAdapter::start(
            Box::<Nothing>::default(),
            StoredMembership::default(),
            log.clone(),
            failure,
            |membership| Fetcher {
                env: Env::real(),
                dir: dir.path().to_owned(),
                transport: crate::testing::nowhere(),
                cluster_id: 1,
                local: 1,
                membership,
                stop: CancellationToken::new(),
                runtime: tokio::runtime::Handle::current(),
            },
        )
        .expect("a thread");
        machine.set_running();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_librarys_own_suite() {
    Suite::test_all(Builder).await.expect("all cases pass");
}
