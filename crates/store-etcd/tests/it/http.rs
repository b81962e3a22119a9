//! Plain HTTP, and what gRPC says to clients that ask for what there is not.

use std::collections::{BTreeMap, HashSet};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use trivet_datastore::Datastore;
use trivet_store_etcd::SERVER_VERSION;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::http_client::{get, send};
use crate::kv::{get as range, put};
use crate::support::{Single, Three, eventually, soon};

#[tokio::test]
async fn version_health_and_what_there_is_not() {
    let single = Single::start().await;
    let address = single.member.address();
    let version = get(&address, "/version").await;
    assert_eq!(version.status, 200);
    assert_eq!(version.headers["content-type"], "application/json");
    assert_eq!(
        version.body,
        format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"3.5.0"}}"#)
    );
    let good = r#"{"health":"true","reason":""}"#;
    for path in [
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE&serializable=true",
    ] {
        let health = get(&address, path).await;
        assert_eq!((health.status, health.body.as_str()), (200, good), "{path}");
    }
    for (path, body) in [
        ("/livez", "ok\n"),
        ("/livez?verbose", "[+]serializable_read ok\nok\n"),
        ("/livez/serializable_read", "ok\n"),
        ("/readyz", "ok\n"),
        (
            "/readyz?verbose&exclude=linearizable_read&exclude=unheard-of",
            "[+]data_corruption ok\n[+]non_learner ok\n[+]serializable_read ok\nok\n",
        ),
        (
            "/readyz/linearizable_read?verbose",
            "[+]linearizable_read ok\nok\n",
        ),
    ] {
        let answer = get(&address, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
    for path in [
        "/",
        "/nothing",
        "/livez/non_learner",
        "/readyz/x",
        "/v2/keys",
        "/v3",
    ] {
        let answer = get(&address, path).await;
        let expected = (404, "404 page not found\n");
        assert_eq!((answer.status, answer.body.as_str()), expected, "{path}");
    }
    for path in [
        "/version",
        "/health",
        "/livez",
        "/readyz",
        "/readyz/non_learner",
    ] {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = send(&address, method, path, &[], "").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.headers["allow"], "GET");
            assert_eq!(answer.body, "Method Not Allowed\n");
        }
    }
    let variables = get(&address, "/debug/vars").await;
    let variables: serde_json::Value = serde_json::from_str(&variables.body).unwrap();
    assert_eq!(variables["raft.status"]["raftState"], "StateLeader");
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn alarms_show_until_they_are_excluded() {
    let single = Single::start().await;
    let address = single.member.address();
    let status = pb::StatusRequest {};
    let status = single.client().maintenance().status(status).await.unwrap();
    let member_id = status.into_inner().header.unwrap().member_id;
    let client = single.client();
    let alarm = |action: pb::alarm_request::AlarmAction, alarm: pb::AlarmType| {
        let request = pb::AlarmRequest {
            action: action.into(),
            member_id,
            alarm: alarm.into(),
        };
        async move { client.maintenance().alarm(request).await.unwrap() }
    };
    use pb::alarm_request::AlarmAction::{Activate, Deactivate};
    for (kind, name, ready) in [
        (pb::AlarmType::Nospace, "NOSPACE", 200),
        (pb::AlarmType::Corrupt, "CORRUPT", 503),
    ] {
        alarm(Activate, kind).await;
        let health = get(&address, "/health").await;
        assert_eq!(health.status, 503);
        let bad = format!("{{\"health\":\"false\",\"reason\":\"ALARM {name}\"}}\n");
        assert_eq!(health.body, bad);
        let excluded = get(&address, &format!("/health?exclude={name}")).await;
        assert_eq!(excluded.status, 200);
        let other = get(&address, "/health?exclude=OTHER&serializable=true").await;
        assert_eq!(other.status, 503);
        assert_eq!(get(&address, "/readyz").await.status, ready, "{name}");
        assert_eq!(get(&address, "/livez").await.status, 200, "{name}");
        if ready == 503 {
            let page = get(&address, "/readyz").await.body;
            assert_eq!(
                page,
                "[-]data_corruption failed: alarm activated: CORRUPT\n[+]linearizable_read ok\n[+]non_learner ok\n[+]serializable_read ok\n\n"
            );
        }
        alarm(Deactivate, kind).await;
        assert_eq!(get(&address, "/health").await.status, 200);
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_member_without_a_leader_says_so() {
    let mut three = Three::start().await;
    let last = three.members.remove(0);
    let address = last.address();
    for member in &three.members {
        soon(member.store.shutdown()).await;
    }
    eventually("the leader is missed", || async {
        get(&address, "/health").await.body
            == "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"
    })
    .await;
    for (path, status) in [
        ("/health?serializable=true", 200),
        ("/livez", 200),
        ("/readyz?exclude=linearizable_read", 200),
        ("/readyz/data_corruption", 200),
        ("/readyz/linearizable_read", 503),
    ] {
        assert_eq!(get(&address, path).await.status, status, "{path}");
    }
    last.store.shutdown().await;
}

/// One metric of an exposition.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    /// Name with suffix, labels in order, value.
    samples: Vec<(String, Vec<(String, String)>, f64)>,
}

/// Reads the text format, strictly: every sample belongs to the metric announced above it.
fn parse(page: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut helped: Option<String> = None;
    let valid = |name: &str| {
        let mut characters = name.chars();
        characters
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(valid(name) && !help.is_empty(), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let metric = Metric {
                kind: kind.to_owned(),
                ..Metric::default()
            };
            assert!(metrics.insert(name.to_owned(), metric).is_none(), "{line}");
            current = Some(name.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                None => (series, ""),
            };
            let labels: Vec<_> = labels
                .split_terminator(',')
                .map(|label| {
                    let (label, value) = label.split_once('=').unwrap();
                    let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                    assert!(valid(label), "{line}");
                    (label.to_owned(), value.to_owned())
                })
                .collect();
            let owner = current.clone().unwrap();
            let metric = metrics.get_mut(&owner).unwrap();
            let suffix = name.strip_prefix(owner.as_str()).unwrap();
            match metric.kind.as_str() {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert_eq!(suffix, "", "{line}"),
            }
            let value: f64 = value.parse().unwrap();
            metric.samples.push((name.to_owned(), labels, value));
        }
    }
    metrics
}

fn check(name: &str, metric: &Metric) {
    let mut seen = HashSet::new();
    for (series, labels, value) in &metric.samples {
        assert!(seen.insert((series, labels)), "{name} has {labels:?} twice");
        assert!(
            metric.kind == "gauge" || *value >= 0.0,
            "{name} {labels:?} is {value}"
        );
    }
    if metric.kind != "histogram" {
        return;
    }
    let of = |suffix: &str| {
        let series = format!("{name}{suffix}");
        let samples = metric
            .samples
            .iter()
            .filter(move |sample| sample.0 == series);
        samples.collect::<Vec<_>>()
    };
    let (buckets, count) = (of("_bucket"), of("_count")[0].2);
    let mut before = (f64::NEG_INFINITY, 0.0);
    for (_, labels, value) in buckets {
        let [(label, bound)] = labels.as_slice() else {
            panic!("{name}: {labels:?}");
        };
        assert_eq!(label, "le");
        let bound: f64 = bound.trim_start_matches('+').parse().unwrap();
        assert!(bound > before.0 && *value >= before.1, "{name}: {labels:?}");
        before = (bound, *value);
    }
    assert_eq!(before, (f64::INFINITY, count), "{name}");
    assert_eq!(of("_sum").len(), 1);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let single = Single::start().await;
    let (address, client) = (single.member.address(), single.client());
    let page = |address: String| async move { parse(&get(&address, "/metrics").await.body) };
    let before = page(address.clone()).await;
    client.kv().put(put("a", "1")).await.unwrap();
    client.kv().put(put("b", "2")).await.unwrap();
    client.kv().range(range("a")).await.unwrap();
    let delete = pb::DeleteRangeRequest {
        key: "b".into(),
        ..Default::default()
    };
    client.kv().delete_range(delete).await.unwrap();
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 9 };
    client.lease().lease_grant(grant).await.unwrap();
    client.lease().lease_grant(grant).await.unwrap_err();
    let revoke = pb::LeaseRevokeRequest { id: 9 };
    client.lease().lease_revoke(revoke).await.unwrap();
    let mut versioned = Request::new(pb::StatusRequest {});
    let version = MetadataValue::from_static("3.5.9");
    versioned
        .metadata_mut()
        .insert("client-api-version", version);
    client.maintenance().status(versioned).await.unwrap();
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
            pb::WatchCreateRequest {
                key: "a".into(),
                start_revision: 1,
                ..Default::default()
            },
        )),
    };
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    requests.send(create).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut watch = client.watch().watch(receiver).await.unwrap().into_inner();
    for _ in 0..2 {
        soon(watch.message()).await.unwrap().unwrap();
    }
    get(&address, "/readyz/non_learner").await;
    get(&address, "/health").await;

    let after = page(address.clone()).await;
    for (name, metric) in &after {
        check(name, metric);
    }
    let value = |page: &BTreeMap<String, Metric>, name: &str, labels: &[(&str, &str)]| {
        let found = page[name].samples.iter().find(|(_, of, _)| {
            of.iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .eq(labels.iter().copied())
        });
        found.map_or(0.0, |(.., value)| *value)
    };
    let call = |method, service, kind| {
        [
            ("grpc_method", method),
            ("grpc_service", service),
            ("grpc_type", kind),
        ]
    };
    let answered = |code, method, service| {
        [
            ("grpc_code", code),
            ("grpc_method", method),
            ("grpc_service", service),
            ("grpc_type", "unary"),
        ]
    };
    let (kv, lease, watching) = (
        "etcdserverpb.KV",
        "etcdserverpb.Lease",
        "etcdserverpb.Watch",
    );
    for (name, labels, grown) in [
        ("etcd_mvcc_put_total", &[][..], 2.0),
        ("etcd_mvcc_delete_total", &[], 1.0),
        ("etcd_debugging_lease_granted_total", &[], 1.0),
        ("etcd_debugging_lease_revoked_total", &[], 1.0),
        ("etcd_debugging_mvcc_current_revision", &[], 3.0),
        ("etcd_debugging_mvcc_events_total", &[], 1.0),
        ("etcd_debugging_mvcc_watcher_total", &[], 1.0),
        ("etcd_debugging_mvcc_watch_stream_total", &[], 1.0),
        ("etcd_server_health_success", &[], 1.0),
        ("etcd_server_proposals_pending", &[], 0.0),
        ("etcd_server_proposals_failed_total", &[], 0.0),
        (
            "etcd_server_healthchecks_total",
            &[
                ("type", "readyz"),
                ("name", "non_learner"),
                ("status", "success"),
            ],
            1.0,
        ),
        ("grpc_server_started_total", &call("Put", kv, "unary"), 2.0),
        (
            "grpc_server_msg_received_total",
            &call("Put", kv, "unary"),
            2.0,
        ),
        ("grpc_server_msg_sent_total", &call("Put", kv, "unary"), 2.0),
        ("grpc_server_handled_total", &answered("OK", "Put", kv), 2.0),
        (
            "grpc_server_handled_total",
            &answered("OK", "LeaseGrant", lease),
            1.0,
        ),
        (
            "grpc_server_handled_total",
            &answered("FailedPrecondition", "LeaseGrant", lease),
            1.0,
        ),
        (
            "grpc_server_started_total",
            &call("Watch", watching, "bidi_stream"),
            1.0,
        ),
        (
            "grpc_server_msg_received_total",
            &call("Watch", watching, "bidi_stream"),
            1.0,
        ),
        (
            "grpc_server_msg_sent_total",
            &call("Watch", watching, "bidi_stream"),
            2.0,
        ),
        (
            "etcd_server_client_requests_total",
            &[("type", "unary"), ("client_api_version", "3.5.9")],
            1.0,
        ),
        (
            "etcd_server_client_requests_total",
            &[("type", "stream"), ("client_api_version", "unknown")],
            1.0,
        ),
    ] {
        let difference = value(&after, name, labels) - value(&before, name, labels);
        assert_eq!(difference, grown, "{name} {labels:?}");
    }
    assert!(
        value(&after, "etcd_mvcc_range_total", &[]) > value(&before, "etcd_mvcc_range_total", &[])
    );
    assert_eq!(
        value(&after, "etcd_server_quota_backend_bytes", &[]),
        2_147_483_648.0
    );
    let synced = |page| {
        let metric: &BTreeMap<String, Metric> = page;
        let of = &metric["etcd_disk_wal_fsync_duration_seconds"].samples;
        of.iter()
            .find(|sample| sample.0.ends_with("_count"))
            .unwrap()
            .2
    };
    assert!(synced(&after) > synced(&before), "every write is synced");
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(value(&after, name, &[]) > 0.0, "{name}");
    }
    // The same names in the same order, however often one asks.
    let names = |page: &str| {
        let lines = page.lines().filter(|line| line.starts_with("# TYPE"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, two) = (
        get(&address, "/metrics").await,
        get(&address, "/metrics").await,
    );
    assert_eq!(names(&one.body), names(&two.body));
    drop((requests, watch));
    eventually("the watch is not counted any more", || async {
        let now = page(address.clone()).await;
        value(&now, "etcd_debugging_mvcc_watcher_total", &[]) == 0.0
    })
    .await;
    single.member.store.shutdown().await;
}

/// A call by hand: status code and message.
async fn call(address: &str, path: &str, headers: &[(&str, &[u8])]) -> (Code, String) {
    use http_body_util::{BodyExt as _, Full};
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let message = bytes::Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 1, b'k']);
    let request = request.body(Full::new(message)).unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    let headers = response.headers().clone();
    let trailers = soon(response.into_body().collect())
        .await
        .unwrap()
        .trailers()
        .cloned();
    connection.abort();
    let status = tonic::Status::from_header_map(&headers)
        .or_else(|| tonic::Status::from_header_map(&trailers?))
        .unwrap();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn what_is_not_offered_is_unimplemented_in_grpc_gos_words() {
    let single = Single::start().await;
    let address = single.member.address();
    for (path, text) in [
        // Newer than the version that is told.
        (
            "/etcdserverpb.KV/RangeStream",
            "unknown method RangeStream for service etcdserverpb.KV",
        ),
        (
            "/etcdserverpb.KV/Nothing",
            "unknown method Nothing for service etcdserverpb.KV",
        ),
        (
            "/v3lockpb.Lock/TryLock",
            "unknown method TryLock for service v3lockpb.Lock",
        ),
        ("/nothing.Here/X", "unknown service nothing.Here"),
        ("/a/b/c", "unknown service a/b"),
        ("/nothing", "malformed method name: \"/nothing\""),
    ] {
        let (code, message) = call(&address, path, &[]).await;
        assert_eq!(
            (code, message.as_str()),
            (Code::Unimplemented, text),
            "{path}"
        );
    }
    let gzip: &[(&str, &[u8])] = &[("grpc-encoding", b"gzip")];
    assert_eq!(
        call(&address, "/etcdserverpb.KV/Range", gzip).await,
        (
            Code::Unimplemented,
            "grpc: Decompressor is not installed for grpc-encoding \"gzip\"".to_owned()
        )
    );
    for (version, expected) in [
        (&b"3.5.9"[..], Code::Ok),
        (b"", Code::Ok),
        ("3.5-ä".as_bytes(), Code::Ok),
        (b"\xff\xfe", Code::InvalidArgument),
    ] {
        let headers: &[(&str, &[u8])] = &[("client-api-version", version)];
        let (code, message) = call(&address, "/etcdserverpb.KV/Range", headers).await;
        assert_eq!(code, expected, "{version:?}");
        if expected != Code::Ok {
            assert_eq!(message, "etcdserver: invalid client api version");
        }
    }
    single.member.store.shutdown().await;
}

/// etcd sends clients away that ping more often than every five seconds, or without a call
/// under way; some libraries do both.
#[tokio::test]
async fn clients_may_ping_as_often_as_they_like() {
    const PINGS: usize = 300;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let single = Single::start().await;
    let mut stream = TcpStream::connect(single.member.address()).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    // No settings of our own.
    stream
        .write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut answered = 0;
    for number in 0..PINGS {
        let mut ping = vec![0, 0, 8, PING, 0, 0, 0, 0, 0];
        ping.extend_from_slice(&(number as u64).to_be_bytes());
        stream.write_all(&ping).await.unwrap();
        while answered <= number {
            let mut head = [0; 9];
            soon(stream.read_exact(&mut head)).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            soon(stream.read_exact(&mut payload)).await.unwrap();
            assert_ne!(
                head[3], GOAWAY,
                "sent away after {number} pings: {payload:?}"
            );
            if head[3] == PING && head[4] == ACK {
                assert_eq!(payload, (answered as u64).to_be_bytes());
                answered += 1;
            }
        }
    }
    single.member.store.shutdown().await;
}
