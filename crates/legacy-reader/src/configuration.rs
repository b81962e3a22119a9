//! Raft's list of servers, as it stands in log entries and snapshots.

use crate::input::u64_at;

/// A server of a dqlite cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its number in the Raft configuration; K3s v1.0 kept only the low half of `node-id`.
    pub id: u64,
    /// `<ip>:6443` in K3s.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// More servers than any cluster has.
const MAX_SERVERS: u64 = 10_000;

/// `None` if the bytes are no configuration. Padding behind it is allowed.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<Server>> {
    let (&encoding, bytes) = bytes.split_first()?;
    if encoding != 1 || bytes.len() < 8 {
        return None;
    }
    let count = u64_at(bytes, 0);
    if count > MAX_SERVERS {
        return None;
    }
    let (mut rest, mut servers) = (&bytes[8..], Vec::new());
    for _ in 0..count {
        if rest.len() < 8 {
            return None;
        }
        let id = u64_at(rest, 0);
        let text = &rest[8..];
        let end = text.iter().position(|&byte| byte == 0)?;
        let &role = text.get(end + 1)?;
        servers.push(Server {
            id,
            address: String::from_utf8_lossy(&text[..end]).into_owned(),
            voter: role == 1,
        });
        rest = &text[end + 2..];
    }
    Some(servers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_server_and_what_is_cut_off() {
        let mut bytes = vec![1];
        bytes.extend(1_u64.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(b"10.0.0.11:6443\0\x01");
        let whole = bytes.len();
        bytes.extend([0; 7]);
        let server = Server {
            id: 7,
            address: "10.0.0.11:6443".into(),
            voter: true,
        };
        assert_eq!(decode(&bytes).unwrap(), [server]);
        for cut in 0..whole {
            assert!(decode(&bytes[..cut]).is_none(), "{cut}");
        }
    }
}
