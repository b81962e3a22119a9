//! The JSON gateway's routes, which are etcd's.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use hyper::body::Incoming;
use tonic::body::Body;
use trivet_etcd_gateway::{Gateway, Limits};

use super::front::Services;
use crate::auth::ClientName;
use crate::http::text;
use crate::proto::FILE_DESCRIPTOR_SET;

const ROUTES: &[(&str, &str)] = &[
    ("/v3/kv/range", "/etcdserverpb.KV/Range"),
    ("/v3/kv/put", "/etcdserverpb.KV/Put"),
    ("/v3/kv/deleterange", "/etcdserverpb.KV/DeleteRange"),
    ("/v3/kv/txn", "/etcdserverpb.KV/Txn"),
    ("/v3/kv/compaction", "/etcdserverpb.KV/Compact"),
    ("/v3/watch", "/etcdserverpb.Watch/Watch"),
    ("/v3/lease/grant", "/etcdserverpb.Lease/LeaseGrant"),
    ("/v3/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/kv/lease/revoke", "/etcdserverpb.Lease/LeaseRevoke"),
    ("/v3/lease/keepalive", "/etcdserverpb.Lease/LeaseKeepAlive"),
    (
        "/v3/lease/timetolive",
        "/etcdserverpb.Lease/LeaseTimeToLive",
    ),
    (
        "/v3/kv/lease/timetolive",
        "/etcdserverpb.Lease/LeaseTimeToLive",
    ),
    ("/v3/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/v3/kv/lease/leases", "/etcdserverpb.Lease/LeaseLeases"),
    ("/v3/cluster/member/add", "/etcdserverpb.Cluster/MemberAdd"),
    (
        "/v3/cluster/member/remove",
        "/etcdserverpb.Cluster/MemberRemove",
    ),
    (
        "/v3/cluster/member/update",
        "/etcdserverpb.Cluster/MemberUpdate",
    ),
    (
        "/v3/cluster/member/list",
        "/etcdserverpb.Cluster/MemberList",
    ),
    (
        "/v3/cluster/member/promote",
        "/etcdserverpb.Cluster/MemberPromote",
    ),
    ("/v3/maintenance/alarm", "/etcdserverpb.Maintenance/Alarm"),
    ("/v3/maintenance/status", "/etcdserverpb.Maintenance/Status"),
    (
        "/v3/maintenance/defragment",
        "/etcdserverpb.Maintenance/Defragment",
    ),
    ("/v3/maintenance/hash", "/etcdserverpb.Maintenance/Hash"),
    ("/v3/maintenance/hashkv", "/etcdserverpb.Maintenance/HashKV"),
    (
        "/v3/maintenance/snapshot",
        "/etcdserverpb.Maintenance/Snapshot",
    ),
    (
        "/v3/maintenance/transfer-leadership",
        "/etcdserverpb.Maintenance/MoveLeader",
    ),
    (
        "/v3/maintenance/downgrade",
        "/etcdserverpb.Maintenance/Downgrade",
    ),
    ("/v3/auth/enable", "/etcdserverpb.Auth/AuthEnable"),
    ("/v3/auth/disable", "/etcdserverpb.Auth/AuthDisable"),
    ("/v3/auth/status", "/etcdserverpb.Auth/AuthStatus"),
    ("/v3/auth/authenticate", "/etcdserverpb.Auth/Authenticate"),
    ("/v3/auth/user/add", "/etcdserverpb.Auth/UserAdd"),
    ("/v3/auth/user/get", "/etcdserverpb.Auth/UserGet"),
    ("/v3/auth/user/list", "/etcdserverpb.Auth/UserList"),
    ("/v3/auth/user/delete", "/etcdserverpb.Auth/UserDelete"),
    (
        "/v3/auth/user/changepw",
        "/etcdserverpb.Auth/UserChangePassword",
    ),
    ("/v3/auth/user/grant", "/etcdserverpb.Auth/UserGrantRole"),
    ("/v3/auth/user/revoke", "/etcdserverpb.Auth/UserRevokeRole"),
    ("/v3/auth/role/add", "/etcdserverpb.Auth/RoleAdd"),
    ("/v3/auth/role/get", "/etcdserverpb.Auth/RoleGet"),
    ("/v3/auth/role/list", "/etcdserverpb.Auth/RoleList"),
    ("/v3/auth/role/delete", "/etcdserverpb.Auth/RoleDelete"),
    (
        "/v3/auth/role/grant",
        "/etcdserverpb.Auth/RoleGrantPermission",
    ),
    (
        "/v3/auth/role/revoke",
        "/etcdserverpb.Auth/RoleRevokePermission",
    ),
    ("/v3/lock/lock", "/v3lockpb.Lock/Lock"),
    ("/v3/lock/unlock", "/v3lockpb.Lock/Unlock"),
    ("/v3/election/campaign", "/v3electionpb.Election/Campaign"),
    ("/v3/election/proclaim", "/v3electionpb.Election/Proclaim"),
    ("/v3/election/leader", "/v3electionpb.Election/Leader"),
    ("/v3/election/observe", "/v3electionpb.Election/Observe"),
    ("/v3/election/resign", "/v3electionpb.Election/Resign"),
];

/// What etcd says to a client that shows a certificate with a name.
const NAMED: &str = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";

/// The same for every member in this process.
fn gateway() -> &'static Gateway {
    static GATEWAY: OnceLock<Gateway> = OnceLock::new();
    GATEWAY.get_or_init(|| {
        Gateway::new(FILE_DESCRIPTOR_SET, ROUTES)
            .expect("routes and descriptors are both part of this crate, and a test opens them")
    })
}

/// The gateway's path that is asked for, if it is one of its; the old prefix is still understood.
pub(super) fn route(path: &str) -> Option<Cow<'_, str>> {
    match path.strip_prefix("/v3beta/") {
        Some(rest) => Some(Cow::Owned(format!("/v3/{rest}"))),
        None => path.starts_with("/v3/").then_some(Cow::Borrowed(path)),
    }
}

pub(super) async fn answer(
    services: &Arc<Services>,
    path: &str,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    if services.engine.is_stopping() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "server stopped\n");
    }
    // The caller would be taken for whoever the certificate names, and not for whom it means.
    let named = request.extensions().get::<ClientName>().is_some();
    if named && services.engine.shared.auth_enabled() {
        return text(StatusCode::BAD_REQUEST, NAMED);
    }
    let limits = Limits {
        // Base64 makes bytes a third longer; names and escapes add to it.
        json_bytes: 2 * services.engine.bounds.message_bytes(),
    };
    let services = services.clone();
    let serve = |call| async move { services.grpc(call).await };
    let answer = gateway().answer(path, request, limits, serve).await;
    answer.map(Body::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_leads_to_a_call() {
        let _ = gateway();
        for (_, call) in ROUTES {
            assert!(super::super::rpc::find(call).is_ok(), "{call}");
        }
    }

    #[test]
    fn the_old_prefix_is_understood() {
        assert_eq!(route("/v3beta/kv/put").as_deref(), Some("/v3/kv/put"));
        assert_eq!(route("/v3/kv/put").as_deref(), Some("/v3/kv/put"));
        assert_eq!(route("/v3").as_deref(), None);
        assert_eq!(route("/v3alpha/kv/put").as_deref(), None);
    }
}
