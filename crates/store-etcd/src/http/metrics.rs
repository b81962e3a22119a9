//! `/metrics` and `/debug/vars`: numbers under etcd's names where they mean the same.

use tonic::Code;

use super::health::CHECKS;
use super::process::Process;
use super::{CLUSTER_VERSION, SERVER_VERSION};
use crate::engine::Engine;
use crate::meter::{Page, Type};
use crate::service::RPCS;

/// The page for Prometheus.
pub(super) fn page(engine: &Engine) -> String {
    let mut page = Page::default();
    server(&mut page, engine);
    store(&mut page, engine);
    watches_and_leases(&mut page, engine);
    health(&mut page, engine);
    calls(&mut page, engine);
    process(&mut page);
    page.finish()
}

fn server(page: &mut Page, engine: &Engine) {
    let node = engine.node.status();
    let metrics = &engine.metrics;
    // Prometheus knows numbers only.
    let yes = |yes: bool| u8::from(yes);
    let minor = CLUSTER_VERSION
        .rsplit_once('.')
        .map_or("", |(minor, _)| minor);
    page.metric(
        "etcd_cluster_version",
        Type::Gauge,
        "The version that the cluster speaks.",
    );
    page.sample("etcd_cluster_version", &[("cluster_version", minor)], 1);
    page.metric(
        "etcd_server_version",
        Type::Gauge,
        "The version that this member speaks.",
    );
    page.sample(
        "etcd_server_version",
        &[("server_version", SERVER_VERSION)],
        1,
    );
    let id = format!("{:x}", engine.member_id);
    page.metric(
        "etcd_server_id",
        Type::Gauge,
        "This member's identity, in hexadecimal.",
    );
    page.sample("etcd_server_id", &[("server_id", &id)], 1);
    let gauges = [
        (
            "has_leader",
            "Whether this member knows a leader.",
            yes(node.leader.is_some()),
        ),
        (
            "is_leader",
            "Whether this member leads.",
            yes(node.leader == Some(node.local)),
        ),
        (
            "is_learner",
            "Whether this member is a learner.",
            yes(engine.is_learner()),
        ),
    ];
    for (name, help, value) in gauges {
        page.single(&format!("etcd_server_{name}"), Type::Gauge, help, value);
    }
    page.single(
        "etcd_server_leader_changes_seen_total",
        Type::Counter,
        "How often another leader was seen.",
        metrics.leader_changes.get(),
    );
    // Gauges in etcd, too: they follow the log, which may be another one after a restore.
    page.single(
        "etcd_server_proposals_committed_total",
        Type::Gauge,
        "Index of the last committed log entry.",
        node.committed_index,
    );
    page.single(
        "etcd_server_proposals_applied_total",
        Type::Gauge,
        "Index of the last applied log entry.",
        node.applied_index,
    );
    page.single(
        "etcd_server_proposals_pending",
        Type::Gauge,
        "Proposals of this member that wait for the log.",
        metrics.proposals_pending.get(),
    );
    page.single(
        "etcd_server_proposals_failed_total",
        Type::Counter,
        "Proposals of this member that did not get through the log in time.",
        metrics.proposals_failed.get(),
    );
    page.single(
        "etcd_server_read_indexes_failed_total",
        Type::Counter,
        "Linearizable reads that the cluster did not confirm in time.",
        metrics.read_indexes_failed.get(),
    );
    page.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "How long syncing the log took.",
        &metrics.log_sync,
    );
    page.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "How long syncing files of the state took.",
        &metrics.state_sync,
    );
}

fn store(page: &mut Page, engine: &Engine) {
    let size = engine.shared.size();
    let gauges = [
        (
            "etcd_server_quota_backend_bytes",
            "Bytes that the state may take; 0 for any number.",
            engine.bounds.quota_bytes.unwrap_or(0),
        ),
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Bytes of the state on disk.",
            size.total_bytes,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes of them in use.",
            size.in_use_bytes,
        ),
        (
            "etcd_debugging_mvcc_keys_total",
            "Number of keys.",
            size.keys,
        ),
        (
            "etcd_debugging_mvcc_current_revision",
            "Newest revision.",
            engine.shared.revision().0,
        ),
        (
            "etcd_debugging_mvcc_compact_revision",
            "Revision of the last compaction.",
            engine.shared.compact_revision().0,
        ),
    ];
    for (name, help, value) in gauges {
        page.single(name, Type::Gauge, help, value);
    }
    let done = engine.shared.counters();
    let counters = [
        (
            "etcd_mvcc_put_total",
            "Puts seen by this member.",
            &done.puts,
        ),
        (
            "etcd_mvcc_delete_total",
            "Deletes seen by this member.",
            &done.deletes,
        ),
        (
            "etcd_mvcc_range_total",
            "Ranges seen by this member.",
            &done.ranges,
        ),
        (
            "etcd_mvcc_txn_total",
            "Transactions of several steps seen by this member.",
            &done.txns,
        ),
    ];
    for (name, help, counter) in counters {
        page.single(name, Type::Counter, help, counter.get());
    }
}

fn watches_and_leases(page: &mut Page, engine: &Engine) {
    let metrics = &engine.metrics;
    let done = engine.shared.counters();
    let gauges = [
        (
            "etcd_debugging_mvcc_watcher_total",
            "Watches of clients.",
            &metrics.watchers,
        ),
        (
            "etcd_debugging_mvcc_watch_stream_total",
            "Streams that carry watches.",
            &metrics.watch_streams,
        ),
    ];
    for (name, help, gauge) in gauges {
        page.single(name, Type::Gauge, help, gauge.get());
    }
    let counters = [
        (
            "etcd_debugging_mvcc_events_total",
            "Events sent to clients.",
            &metrics.events,
        ),
        (
            "etcd_debugging_lease_granted_total",
            "Leases granted.",
            &done.leases_granted,
        ),
        (
            "etcd_debugging_lease_revoked_total",
            "Leases ended.",
            &done.leases_revoked,
        ),
        (
            "etcd_debugging_lease_renewed_total",
            "Renewals seen by this member as the leader.",
            &metrics.leases_renewed,
        ),
        (
            "etcd_debugging_server_lease_expired_total",
            "Leases that this member, as the leader, ended in time.",
            &metrics.leases_expired,
        ),
    ];
    for (name, help, counter) in counters {
        page.single(name, Type::Counter, help, counter.get());
    }
}

fn health(page: &mut Page, engine: &Engine) {
    let health = &engine.metrics.health;
    let answers = [
        (
            "etcd_server_health_success",
            "Good answers of /health.",
            &health.successes,
        ),
        (
            "etcd_server_health_failures",
            "Bad answers of /health.",
            &health.failures,
        ),
    ];
    for (name, help, counter) in answers {
        page.single(name, Type::Counter, help, counter.get());
    }
    let rows = || CHECKS.iter().zip(&health.checks);
    let name = "etcd_server_healthcheck";
    page.metric(name, Type::Gauge, "The last result of each health check.");
    for ((kind, check), row) in rows() {
        let labels = [("type", *kind), ("name", check.name())];
        page.sample(name, &labels, row.last.get());
    }
    let name = "etcd_server_healthchecks_total";
    page.metric(name, Type::Counter, "Results of health checks.");
    for ((kind, check), row) in rows() {
        for (status, counter) in [("success", &row.successes), ("error", &row.errors)] {
            let labels = [("type", *kind), ("name", check.name()), ("status", status)];
            page.sample(name, &labels, counter.get());
        }
    }
}

fn calls(page: &mut Page, engine: &Engine) {
    let metrics = &engine.metrics;
    let name = "etcd_server_client_requests_total";
    page.metric(
        name,
        Type::Counter,
        "Requests by version of the client's library.",
    );
    for client in metrics.clients.iter() {
        for (kind, counter) in [("unary", &client.unary), ("stream", &client.streams)] {
            let labels = [
                ("type", kind),
                ("client_api_version", client.version.as_str()),
            ];
            page.sample(name, &labels, counter.get());
        }
    }
    let rows = || {
        RPCS.iter().zip(metrics.rpcs()).map(|(rpc, row)| {
            let labels = [
                ("grpc_method", rpc.method),
                ("grpc_service", rpc.service),
                ("grpc_type", rpc.kind.label()),
            ];
            (labels, row)
        })
    };
    let name = "grpc_server_handled_total";
    page.metric(name, Type::Counter, "Calls answered, by their status.");
    for (labels, row) in rows() {
        for (code, counter) in row.handled.iter().enumerate() {
            // Most pairs of a call and a code never occur.
            if counter.get() > 0 {
                let [method, service, kind] = labels;
                let labels = [("grpc_code", code_name(code)), method, service, kind];
                page.sample(name, &labels, counter.get());
            }
        }
    }
    let name = "grpc_server_msg_received_total";
    page.metric(name, Type::Counter, "Messages received.");
    for (labels, row) in rows() {
        page.sample(name, &labels, row.received.get());
    }
    let name = "grpc_server_msg_sent_total";
    page.metric(name, Type::Counter, "Messages sent.");
    for (labels, row) in rows() {
        page.sample(name, &labels, row.sent.get());
    }
    let name = "grpc_server_started_total";
    page.metric(name, Type::Counter, "Calls begun.");
    for (labels, row) in rows() {
        page.sample(name, &labels, row.started.get());
    }
}

/// As Go's library spells the codes.
fn code_name(code: usize) -> &'static str {
    match Code::from_i32(code as i32) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn process(page: &mut Page) {
    let process = Process::now();
    if let Some(time) = process.cpu_time {
        page.single(
            "process_cpu_seconds_total",
            Type::Counter,
            "Processor time used, in seconds.",
            time.as_secs_f64(),
        );
    }
    let started = process.started.map(|started| started.as_secs_f64());
    if let Some(started) = started {
        page.single(
            "process_start_time_seconds",
            Type::Gauge,
            "When this process started, in seconds since 1970.",
            started,
        );
    }
    let gauges = [
        (
            "process_max_fds",
            "Files that may be open.",
            process.max_files,
        ),
        (
            "process_open_fds",
            "Files that are open.",
            process.open_files,
        ),
        (
            "process_resident_memory_bytes",
            "Memory in use.",
            process.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            "Address space in use.",
            process.virtual_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            page.single(name, Type::Gauge, help, value);
        }
    }
}

/// A few variables under the names that Go's programs have for them.
pub(super) fn variables(engine: &Engine) -> String {
    let node = engine.node.status();
    let process = Process::now();
    let role = match node.leader {
        Some(leader) if leader == node.local => "StateLeader",
        _ => "StateFollower",
    };
    format!(
        concat!(
            "{{\n\"file_descriptor_limit\": {},\n",
            "\"raft.status\": {{\"id\":\"{:x}\",\"term\":{},\"commit\":{},\"lead\":\"{:x}\",",
            "\"raftState\":\"{}\",\"applied\":{}}}\n}}\n"
        ),
        process.max_files.unwrap_or(0),
        node.local,
        node.term,
        node.committed_index,
        node.leader.unwrap_or(0),
        role,
        node.applied_index,
    )
}
