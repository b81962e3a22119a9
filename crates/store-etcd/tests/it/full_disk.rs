//! A file system that really is full: a small one in memory, where this may be mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tonic::Code;
use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_mvcc::WatchLogLimits;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::state::Limits;
use trivet_store_etcd::testing::{self, Bench, Network, Retention};

use crate::kv::{prefix, put};
use crate::support::{eventually, settings, soon};

struct Mounted(TempDir);

impl Mounted {
    /// `None` where mounting is not allowed.
    fn new(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes up all space there is.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut piece = vec![1; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

async fn put_one(client: &Client, number: usize) -> Result<(), tonic::Status> {
    let request = pb::PutRequest {
        key: format!("k{number:04}").into(),
        value: vec![number as u8; 50 << 10].into(),
        ..Default::default()
    };
    soon(client.kv().put(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_stops_writes_and_damages_nothing() {
    let Some(disk) = Mounted::new(40) else {
        eprintln!("skipped: no file system may be mounted here");
        return;
    };
    let bench = Bench {
        network: Network::new(1),
        limits: Limits {
            segment_bytes: 1 << 20,
            checkpoint_bytes: 1 << 20,
            checkpoint_commands: 1000,
            watch_log: WatchLogLimits::default(),
        },
        retention: Retention {
            keep_entries: 10,
            step_entries: 1,
            log_bytes: 2 << 20,
            segment_bytes: Some((256 << 10, 1 << 20)),
            interval: Duration::from_millis(100),
            ..Retention::default()
        },
    };
    let mut config = settings(Env::real(), disk.path().join("trivet"));
    config.quota_bytes = -1;
    config.alarm_clears_itself = true;
    let open = || async {
        let store = soon(testing::open(config.clone(), &bench)).await.unwrap();
        let address = store.client_addresses()[0].to_string();
        let client = Client::connect(&address).await.unwrap();
        (store, client)
    };
    let (store, client) = open().await;
    let mut keys = 0;
    let refused = loop {
        match put_one(&client, keys).await {
            Ok(()) => keys += 1,
            Err(status) => break status,
        }
    };
    if refused.code() != Code::ResourceExhausted {
        let stopped = tokio::time::timeout(Duration::from_secs(1), store.stopped()).await;
        panic!("after {keys} keys: {refused:?}, stopped: {stopped:?}");
    }
    assert!(keys > 100, "only {keys} keys of 50 KiB fit into 40 MiB");
    // The last bytes go to somebody else. Deletions may still get through, or wait.
    let filler = disk.fill();
    let mut waited = false;
    for number in 0..keys.min(100) {
        let delete = pb::DeleteRangeRequest {
            key: format!("k{number:04}").into(),
            ..Default::default()
        };
        let mut kv = client.kv();
        let deleted = kv.delete_range(delete);
        match tokio::time::timeout(Duration::from_secs(1), deleted).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                waited = true;
                break;
            }
        }
    }
    let local = pb::RangeRequest {
        serializable: true,
        ..prefix("k", "l")
    };
    let found = soon(client.kv().range(local)).await.unwrap().into_inner();
    assert!(found.count > 0, "reads go on");
    std::fs::remove_file(filler).unwrap();
    let delete = pb::DeleteRangeRequest {
        key: "k0".into(),
        range_end: "k1".into(),
        prev_kv: false,
    };
    eventually("deletions go on when there is space", || async {
        client.kv().delete_range(delete.clone()).await.is_ok()
    })
    .await;
    eventually("writes go on by themselves", || async {
        client.kv().put(put("k", "v")).await.is_ok()
    })
    .await;
    put_one(&client, 7).await.unwrap();
    let all = soon(client.kv().range(prefix("k", "l"))).await.unwrap();
    let all = all.into_inner().kvs;
    assert_eq!(all.len(), 2);
    eprintln!("{keys} keys of 50 KiB fitted; a deletion had to wait: {waited}");
    store.shutdown().await;
    drop(store);
    let (store, client) = open().await;
    let again = soon(client.kv().range(prefix("k", "l"))).await.unwrap();
    assert_eq!(again.into_inner().kvs, all);
    store.shutdown().await;
}
