//! Stores from what a genuine etcd left.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use trivet_datastore::{ClusterStart, Datastore as _};
use trivet_env::Env;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    LeaseGrantRequest, LeaseRevokeRequest, auth_client::AuthClient,
};
use trivet_store_etcd::{
    DIR, EtcdBackend, ImportError, ImportOptions, ImportReport, ImportSource, NAME, import, open,
};

use crate::contents::{self, assert_same_events, assert_same_pairs};
use crate::genuine::{self, Tools};
use crate::snapshot::{self, fill};
use crate::support::{Member, Single, Tls, eventually, free_address, settings, soon};

fn snapshot_file(file: PathBuf) -> ImportSource {
    ImportSource::Snapshot {
        file,
        skip_hash_check: false,
    }
}

fn options(db_dir: &Path, source: ImportSource) -> ImportOptions {
    ImportOptions {
        env: Env::real(),
        db_dir: db_dir.to_owned(),
        source,
        bump_revision: 0,
        noted_prefix: b"large",
    }
}

async fn imported(db_dir: &Path, source: ImportSource) -> Result<ImportReport, ImportError> {
    soon(import(options(db_dir, source), |_| {})).await
}

/// The member of an imported store.
async fn start(db_dir: &Path) -> Member {
    Member::open(settings(Env::real(), db_dir.join(DIR))).await
}

/// What a client sees of a store.
struct Seen {
    revision: i64,
    at: BTreeMap<i64, Vec<trivet_store_etcd::proto::mvccpb::KeyValue>>,
    events: Vec<trivet_store_etcd::proto::mvccpb::Event>,
    leases: BTreeMap<i64, (i64, Vec<Bytes>)>,
    compaction: i64,
    /// Writes since then, which a client has not looked at.
    later: i64,
}

impl Seen {
    async fn of(client: &Client, compaction: i64) -> Self {
        let revision = contents::revision(client).await;
        let mut at = BTreeMap::new();
        for revision in [compaction, compaction + 1, revision - 3, revision] {
            at.insert(revision, contents::pairs(client, revision).await);
        }
        Self {
            revision,
            at,
            events: contents::events(client, compaction + 1, revision).await,
            leases: contents::leases(client).await,
            compaction,
            later: 0,
        }
    }

    async fn assert_in(&self, client: &Client, what: &str) {
        let revision = contents::revision(client).await;
        assert_eq!(revision, self.revision + self.later, "{what}");
        for (&revision, pairs) in &self.at {
            let found = contents::pairs(client, revision).await;
            assert_same_pairs(&found, pairs, &format!("{what} at {revision}"));
        }
        let events = contents::events(client, self.compaction + 1, self.revision).await;
        assert_same_events(&events, &self.events, what);
        assert_eq!(contents::leases(client).await, self.leases, "{what}");
        assert_eq!(
            contents::refusal(client, self.compaction - 1).await,
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_snapshot_goes_in_and_out_and_in_again() {
    for tools in Tools::all() {
        let dir = tempfile::tempdir().unwrap();
        let server = tools.start(&dir.path().join("genuine")).await;
        let compaction = fill(server.client(), 3000).await;
        let seen = Seen::of(server.client(), compaction).await;
        let file = dir.path().join("first.snapshot");
        tools.save(&server.endpoint, &file);
        drop(server);

        let first = dir.path().join("first");
        let report = imported(&first, snapshot_file(file)).await.unwrap();
        assert_eq!(report.revision.0 as i64, seen.revision);
        assert_eq!(report.compact_revision.0 as i64, compaction);
        assert_eq!(report.keys, seen.at[&seen.revision].len() as u64);
        assert_eq!(report.leases, seen.leases.len() as u64);
        assert_eq!(report.noted_keys, ["large0", "large1", "large2"]);
        let ours = start(&first).await;
        seen.assert_in(&ours.client, tools.name).await;

        let (bytes, _) = snapshot::stream(&ours.client).await;
        ours.store.shutdown().await;
        let file = dir.path().join("second.snapshot");
        std::fs::write(&file, bytes).unwrap();
        let data = dir.path().join("restored");
        tools.restore(&file, &data);
        let server = tools.start(&data).await;
        seen.assert_in(server.client(), tools.name).await;
        let second = dir.path().join("second");
        imported(&second, snapshot_file(file)).await.unwrap();
        let ours = start(&second).await;
        seen.assert_in(&ours.client, tools.name).await;
        ours.store.shutdown().await;
    }
}

/// Every file below a directory.
fn inventory(root: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (metadata.len(), metadata.modified().unwrap()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_a_killed_etcd_has_everything_it_acknowledged() {
    for tools in Tools::all() {
        let dir = tempfile::tempdir().unwrap();
        let genuine = dir.path().join("genuine");
        let server = tools.start(&genuine).await;
        let compaction = fill(server.client(), 500).await;
        let mut leases = server.client().lease();
        for id in [900, 901] {
            let request = LeaseGrantRequest { ttl: 700, id };
            leases.lease_grant(request).await.unwrap();
        }
        let revoke = LeaseRevokeRequest { id: 900 };
        leases.lease_revoke(revoke).await.unwrap();
        let mut seen = Seen::of(server.client(), compaction).await;

        // While it runs it is nobody else's.
        let db = dir.path().join("db");
        let source = ImportSource::MemberDir(genuine.clone());
        let refused = imported(&db, source.clone()).await;
        assert!(matches!(refused, Err(ImportError::InUse(_))), "{refused:?}");

        // The end comes before the database was written.
        for number in 0..5 {
            snapshot::put_one(server.client(), "last", &format!("{number}")).await;
            seen.later += 1;
        }
        drop(server);
        let before = inventory(&genuine);
        let report = imported(&db, source).await.unwrap();
        assert!(report.log_entries > 0, "{} left the log for us", tools.name);
        assert_eq!(inventory(&genuine), before, "the source is not touched");
        let ours = start(&db).await;
        seen.assert_in(&ours.client, tools.name).await;
        let pairs = contents::pairs(&ours.client, 0).await;
        let last = pairs.iter().find(|pair| pair.key == "last").unwrap();
        assert_eq!((&last.value[..], last.version), (&b"4"[..], 5));
        ours.store.shutdown().await;

        // Without its log nobody knows what the database lacks.
        std::fs::rename(genuine.join("member/wal"), dir.path().join("wal")).unwrap();
        let source = ImportSource::MemberDir(genuine.join("member"));
        let refused = imported(&dir.path().join("other"), source).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("snapshot save"), "{text}");
    }
}

#[tokio::test]
async fn users_and_roles_are_not_lost_in_silence() {
    for tools in Tools::all() {
        let dir = tempfile::tempdir().unwrap();
        let server = tools.start(&dir.path().join("genuine")).await;
        let mut auth = AuthClient::new(server.client().channel());
        auth.user_add(AuthUserAddRequest {
            name: "root".into(),
            password: "secret".into(),
            ..Default::default()
        })
        .await
        .unwrap();
        auth.role_add(AuthRoleAddRequest {
            name: "root".into(),
        })
        .await
        .unwrap();
        let open = dir.path().join("open.snapshot");
        tools.save(&server.endpoint, &open);
        auth.user_grant_role(AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        })
        .await
        .unwrap();
        auth.auth_enable(AuthEnableRequest {}).await.unwrap();
        let closed = dir.path().join("closed.snapshot");
        let mut command = tools.client(&server.endpoint);
        command.args(["--user", "root:secret", "snapshot", "save"]);
        genuine::done(command.arg(&closed));
        drop(server);
        let report = imported(&dir.path().join("a"), snapshot_file(open))
            .await
            .unwrap();
        assert_eq!((report.auth_records, report.auth_enabled), (2, false));
        let db = dir.path().join("b");
        let report = imported(&db, snapshot_file(closed)).await.unwrap();
        assert_eq!((report.auth_records, report.auth_enabled), (2, true));
        // Whatever is sent on has them too.
        let ours = start(&db).await;
        let image = dir.path().join("out.snapshot");
        let bytes = match snapshot::try_stream(&ours.client).await {
            Ok(bytes) => bytes,
            // Nobody may take a snapshot unknown.
            Err(status) => {
                assert!(status.message().contains("user"), "{status}");
                ours.store.shutdown().await;
                continue;
            }
        };
        ours.store.shutdown().await;
        std::fs::write(&image, bytes).unwrap();
        let restored = dir.path().join("restored");
        tools.restore(&image, &restored);
        let server = tools.start(&restored).await;
        let mut command = tools.client(&server.endpoint);
        let output = command.args(["get", "k"]).output().unwrap();
        assert!(!output.status.success(), "it is open");
        let mut command = tools.client(&server.endpoint);
        genuine::done(command.args(["--user", "root:secret", "get", "k"]));
    }
}

/// A snapshot of a store of our own, which every machine can make.
async fn own_snapshot(dir: &Path) -> (PathBuf, Seen) {
    let single = Single::start().await;
    let compaction = fill(single.client(), 1000).await;
    let seen = Seen::of(single.client(), compaction).await;
    let (bytes, _) = snapshot::stream(single.client()).await;
    let file = dir.join("own.snapshot");
    std::fs::write(&file, bytes).unwrap();
    (file, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_join_an_imported_store_get_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, seen) = own_snapshot(dir.path()).await;
    let db = dir.path().join("db");
    imported(&db, snapshot_file(file)).await.unwrap();
    let tls = Tls::new();
    let member = |number: usize, place: PathBuf| {
        let mut config = settings(Env::real(), place);
        config.member_name = format!("member{number}");
        config.peers = Some(tls.peers(free_address()));
        config
    };
    let first = Member::open(member(0, db.join(DIR))).await;
    let url = first.config.peers.as_ref().unwrap().url.clone();
    eventually("the cluster knows where its member is", || async {
        let status = first.store.cluster().unwrap().status().await.unwrap();
        status.members[0].peer_urls == [url.clone()]
    })
    .await;
    let mut config = member(1, dir.path().join("second"));
    config.start = ClusterStart::Join {
        peer_urls: vec![url],
    }
    .into();
    let second = Member::open(config).await;
    seen.assert_in(&second.client, "the member that joined")
        .await;
    seen.assert_in(&first.client, "the first member").await;
    // It cannot become a part of another cluster, and keeps its own data when it is asked to.
    futures_util::future::join_all([first.store.shutdown(), second.store.shutdown()]).await;
    let mut config = member(0, db.join(DIR));
    config.start = ClusterStart::Join {
        peer_urls: vec!["https://127.0.0.1:1".to_owned()],
    }
    .into();
    let refused = soon(open(config)).await.unwrap_err().to_string();
    assert!(refused.contains("imported"), "{refused}");
}

#[tokio::test]
async fn damage_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = own_snapshot(dir.path()).await;
    let good = std::fs::read(&file).unwrap();
    let db = dir.path().join("db");
    let refused = async |name: &str, bytes: &[u8], skip: bool| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let source = ImportSource::Snapshot {
            file,
            skip_hash_check: skip,
        };
        let error = imported(&db, source).await.unwrap_err();
        assert!(!db.join(DIR).exists(), "{name}");
        error
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let error = refused("flipped", &flipped, false).await;
    assert!(matches!(error, ImportError::ChecksumDiffers(_)), "{error}");
    let cut = &good[..good.len() - 100];
    let error = refused("cut", cut, false).await;
    assert!(matches!(error, ImportError::NoChecksum(_)), "{error}");
    let error = refused("cut and skipped", cut, true).await;
    assert!(error.to_string().contains("cut off"), "{error}");
    let error = refused("empty", b"", true).await;
    assert!(matches!(error, ImportError::Damaged { .. }), "{error}");
    // A page of the tree that is none, in a file whose checksum nobody looks at.
    let mut page = good.clone();
    page[3 * 4096 + 8] = 0xff;
    let error = refused("page", &page, true).await;
    assert!(error.to_string().contains("page 3"), "{error}");
    let missing = imported(&db, snapshot_file(dir.path().join("missing"))).await;
    assert!(matches!(missing, Err(ImportError::Io { .. })));

    // What they left is in the way of a server, which says so, and not of the next import.
    let footprints = probe(&db);
    assert_eq!(footprints.len(), 1);
    assert!(footprints[0].1.contains("run it again"), "{footprints:?}");
    let database = &good[..good.len() - 32];
    let file = dir.path().join("database");
    std::fs::write(&file, database).unwrap();
    let source = ImportSource::Snapshot {
        file: file.clone(),
        skip_hash_check: true,
    };
    imported(&db, source).await.unwrap();
    let footprints = probe(&db);
    assert_eq!((footprints.len(), &footprints[0].0[..]), (1, NAME));
    let again = imported(&db, snapshot_file(file)).await;
    assert!(matches!(again, Err(ImportError::Occupied(_))), "{again:?}");
}

/// Whose data a server finds there.
fn probe(db_dir: &Path) -> Vec<(String, String)> {
    use trivet_datastore::{Backend as _, ReadOnlyDir};
    struct Dir<'a>(&'a Path);
    impl ReadOnlyDir for Dir<'_> {
        fn read_dir(&self, path: &str) -> std::io::Result<Vec<String>> {
            let entries = std::fs::read_dir(self.0.join(path))?;
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        }
        fn read(&self, path: &str, _: u64, length: usize) -> std::io::Result<Vec<u8>> {
            let mut bytes = std::fs::read(self.0.join(path))?;
            bytes.truncate(length);
            Ok(bytes)
        }
        fn file_size_bytes(&self, path: &str) -> std::io::Result<Option<u64>> {
            let found = std::fs::metadata(self.0.join(path)).ok();
            Ok(found
                .filter(|found| found.is_file())
                .map(|found| found.len()))
        }
        fn is_dir(&self, path: &str) -> std::io::Result<bool> {
            Ok(self.0.join(path).is_dir())
        }
    }
    let found = EtcdBackend::default().probe(&Dir(db_dir)).unwrap();
    found
        .into_iter()
        .map(|found| (found.backend, found.description))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raised_revision_leaves_no_older_one_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let (file, seen) = own_snapshot(dir.path()).await;
    let db = dir.path().join("db");
    let mut options = options(&db, snapshot_file(file));
    options.bump_revision = 1_000_000;
    let report = soon(import(options, |_| {})).await.unwrap();
    let revision = seen.revision + 1_000_000;
    assert_eq!(report.revision.0 as i64, revision);
    let ours = start(&db).await;
    assert_eq!(contents::revision(&ours.client).await, revision);
    let pairs = contents::pairs(&ours.client, 0).await;
    assert_same_pairs(&pairs, &seen.at[&seen.revision], "after the raise");
    for old in [seen.revision, revision - 1] {
        assert_eq!(
            contents::refusal(&ours.client, old).await,
            "etcdserver: mvcc: required revision has been compacted"
        );
    }
    assert_eq!(contents::leases(&ours.client).await, seen.leases);
    ours.store.shutdown().await;
}
