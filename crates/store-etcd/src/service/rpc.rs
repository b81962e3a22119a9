//! The calls offered to clients: those of etcd 3.5.

/// One call.
#[derive(Debug)]
pub(crate) struct Rpc {
    pub(crate) service: &'static str,
    pub(crate) method: &'static str,
    pub(crate) kind: Kind,
}

/// Which side sends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// As the gRPC metrics call it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// Place in [`RPCS`]; metrics have one row per place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RpcId(pub(crate) usize);

const fn unary(service: &'static str, method: &'static str) -> Rpc {
    Rpc {
        service,
        method,
        kind: Kind::Unary,
    }
}

const fn server_stream(service: &'static str, method: &'static str) -> Rpc {
    Rpc {
        service,
        method,
        kind: Kind::ServerStream,
    }
}

const fn bidi_stream(service: &'static str, method: &'static str) -> Rpc {
    Rpc {
        service,
        method,
        kind: Kind::BidiStream,
    }
}

const KV: &str = "etcdserverpb.KV";
const WATCH: &str = "etcdserverpb.Watch";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";
const HEALTH: &str = "grpc.health.v1.Health";

pub(crate) const WATCH_WATCH: RpcId = RpcId(4);
pub(crate) const LEASE_KEEP_ALIVE: RpcId = RpcId(5);

/// Every call, the frequent ones first: they are found by walking.
pub(crate) static RPCS: &[Rpc] = &[
    unary(KV, "Range"),
    unary(KV, "Put"),
    unary(KV, "Txn"),
    unary(KV, "DeleteRange"),
    bidi_stream(WATCH, "Watch"),
    bidi_stream(LEASE, "LeaseKeepAlive"),
    unary(KV, "Compact"),
    unary(LEASE, "LeaseGrant"),
    unary(LEASE, "LeaseRevoke"),
    unary(LEASE, "LeaseTimeToLive"),
    unary(LEASE, "LeaseLeases"),
    unary(CLUSTER, "MemberAdd"),
    unary(CLUSTER, "MemberRemove"),
    unary(CLUSTER, "MemberUpdate"),
    unary(CLUSTER, "MemberList"),
    unary(CLUSTER, "MemberPromote"),
    unary(MAINTENANCE, "Alarm"),
    unary(MAINTENANCE, "Status"),
    unary(MAINTENANCE, "Defragment"),
    unary(MAINTENANCE, "Hash"),
    unary(MAINTENANCE, "HashKV"),
    server_stream(MAINTENANCE, "Snapshot"),
    unary(MAINTENANCE, "MoveLeader"),
    unary(MAINTENANCE, "Downgrade"),
    unary(AUTH, "AuthEnable"),
    unary(AUTH, "AuthDisable"),
    unary(AUTH, "AuthStatus"),
    unary(AUTH, "Authenticate"),
    unary(AUTH, "UserAdd"),
    unary(AUTH, "UserGet"),
    unary(AUTH, "UserList"),
    unary(AUTH, "UserDelete"),
    unary(AUTH, "UserChangePassword"),
    unary(AUTH, "UserGrantRole"),
    unary(AUTH, "UserRevokeRole"),
    unary(AUTH, "RoleAdd"),
    unary(AUTH, "RoleGet"),
    unary(AUTH, "RoleList"),
    unary(AUTH, "RoleDelete"),
    unary(AUTH, "RoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission"),
    unary(LOCK, "Lock"),
    unary(LOCK, "Unlock"),
    unary(ELECTION, "Campaign"),
    unary(ELECTION, "Proclaim"),
    unary(ELECTION, "Leader"),
    server_stream(ELECTION, "Observe"),
    unary(ELECTION, "Resign"),
    unary(HEALTH, "Check"),
    server_stream(HEALTH, "Watch"),
];

/// Why a path is no call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unknown<'a> {
    Malformed,
    Service(&'a str),
    Method { service: &'a str, method: &'a str },
}

/// The call that a path names.
pub(crate) fn find(path: &str) -> Result<RpcId, Unknown<'_>> {
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'))
        .ok_or(Unknown::Malformed)?;
    let found = RPCS
        .iter()
        .position(|rpc| rpc.method == method && rpc.service == service);
    match found {
        Some(place) => Ok(RpcId(place)),
        None if RPCS.iter().any(|rpc| rpc.service == service) => {
            Err(Unknown::Method { service, method })
        }
        None => Err(Unknown::Service(service)),
    }
}

impl RpcId {
    pub(crate) fn rpc(self) -> &'static Rpc {
        &RPCS[self.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_once_by_its_path() {
        for (place, rpc) in RPCS.iter().enumerate() {
            let path = format!("/{}/{}", rpc.service, rpc.method);
            assert_eq!(find(&path), Ok(RpcId(place)), "{path}");
        }
        assert_eq!(find("/etcdserverpb.Watch/Watch"), Ok(WATCH_WATCH));
        assert_eq!(
            find("/etcdserverpb.Lease/LeaseKeepAlive"),
            Ok(LEASE_KEEP_ALIVE)
        );
    }

    #[test]
    fn other_paths_are_told_apart() {
        let newer = Unknown::Method {
            service: "etcdserverpb.KV",
            method: "RangeStream",
        };
        assert_eq!(find("/etcdserverpb.KV/RangeStream"), Err(newer));
        assert_eq!(find("/a/b/c"), Err(Unknown::Service("a/b")));
        assert_eq!(find("/Range"), Err(Unknown::Malformed));
        assert_eq!(find(""), Err(Unknown::Malformed));
    }

    /// A call that the messages' file has and the table lacks would be refused as unknown.
    #[test]
    fn the_table_holds_everything_declared_but_what_is_newer_than_3_5() {
        use prost::Message as _;
        let set =
            prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut missing = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    match find(&path) {
                        Err(_) => missing.push(path),
                        Ok(id) => {
                            let kind = match (method.client_streaming(), method.server_streaming())
                            {
                                (false, false) => Kind::Unary,
                                (false, true) => Kind::ServerStream,
                                _ => Kind::BidiStream,
                            };
                            assert_eq!(id.rpc().kind, kind, "{path}");
                        }
                    }
                }
            }
        }
        assert_eq!(missing, ["/etcdserverpb.KV/RangeStream"]);
    }
}
