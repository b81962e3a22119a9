//! Who is calling the supervisor?

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use trivet_https::{PeerIdentity, RemoteAddress};

use crate::passwd::{GROUP_AGENT, GROUP_SERVER, Passwd};

/// Group of administrators.
pub(crate) const GROUP_MASTERS: &str = "system:masters";
/// Group of nodes that have their certificate.
pub(crate) const GROUP_NODES: &str = "system:nodes";

/// A caller that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
}

impl Caller {
    fn is_in(&self, groups: &[&str]) -> bool {
        self.groups
            .iter()
            .any(|group| groups.contains(&group.as_str()))
    }

    /// May read and change what servers share.
    pub(crate) fn is_server(&self) -> bool {
        self.is_in(&[GROUP_SERVER])
    }

    /// May read the state of the cluster.
    pub(crate) fn is_server_or_admin(&self) -> bool {
        self.is_in(&[GROUP_SERVER, GROUP_MASTERS])
    }

    /// May get what a node needs.
    pub(crate) fn is_node(&self) -> bool {
        self.is_in(&[GROUP_AGENT, GROUP_SERVER, GROUP_NODES, GROUP_MASTERS])
    }

    /// The node's name when the caller shows a node's certificate.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.user
            .strip_prefix("system:node:")
            .filter(|_| self.is_in(&[GROUP_NODES]))
    }
}

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No credentials, or wrong ones.
    Unauthorized,
    /// Too many wrong ones from this address.
    TooManyAttempts,
}

/// Finds out who is calling: by certificate, else by password.
pub(crate) fn identify(
    parts: &Parts,
    passwd: &Passwd,
    attempts: &Attempts,
    now: Duration,
) -> Result<Caller, Refusal> {
    if let Some(peer) = parts.extensions.get::<PeerIdentity>() {
        return Ok(Caller {
            user: peer.name.common_name.clone(),
            groups: peer.name.organizations.clone(),
        });
    }
    let Some((user, password)) = basic(parts) else {
        return Err(Refusal::Unauthorized);
    };
    let address = parts
        .extensions
        .get::<RemoteAddress>()
        .map(|remote| remote.0.ip());
    // Before the comparison, so that a blocked caller learns nothing from it.
    if address.is_some_and(|address| attempts.is_blocked(address, now)) {
        return Err(Refusal::TooManyAttempts);
    }
    match passwd.verify(&user, &password) {
        Some(groups) => Ok(Caller { user, groups }),
        None => {
            if let Some(address) = address {
                attempts.failed(address, now);
            }
            Err(Refusal::Unauthorized)
        }
    }
}

fn basic(parts: &Parts) -> Option<(String, String)> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Failed attempts per address. Generated tokens have 128 bits and need no such help; short
/// ones that people make up do.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Window>>);

#[derive(Debug, Clone, Copy)]
struct Window {
    start: Duration,
    failures: u32,
}

impl Attempts {
    const PER_WINDOW_MAX: u32 = 100;
    const WINDOW: Duration = Duration::from_secs(60);
    const ADDRESSES_MAX: usize = 4096;

    fn is_blocked(&self, address: IpAddr, now: Duration) -> bool {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(&address).is_some_and(|window| {
            window.failures >= Self::PER_WINDOW_MAX
                && now.saturating_sub(window.start) < Self::WINDOW
        })
    }

    fn failed(&self, address: IpAddr, now: Duration) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= Self::ADDRESSES_MAX {
            map.retain(|_, window| now.saturating_sub(window.start) < Self::WINDOW);
            if map.len() >= Self::ADDRESSES_MAX {
                map.clear();
            }
        }
        let window = map.entry(address).or_insert(Window {
            start: now,
            failures: 0,
        });
        if now.saturating_sub(window.start) >= Self::WINDOW {
            *window = Window {
                start: now,
                failures: 0,
            };
        }
        window.failures += 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trivet_pki::{PeerName, Secret};

    use super::*;

    fn parts(authorization: Option<&str>) -> Parts {
        let mut request = http::Request::new(());
        if let Some(value) = authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, value.parse().unwrap());
        }
        request
            .extensions_mut()
            .insert(RemoteAddress("10.0.0.9:1".parse().unwrap()));
        request.into_parts().0
    }

    fn basic_value(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn callers_are_identified() {
        let passwd = Passwd::new(&Secret::new("s"), &Secret::new("a"));
        let attempts = Attempts::default();
        let who = |value: &str| identify(&parts(Some(value)), &passwd, &attempts, Duration::ZERO);
        assert!(who(&basic_value("server:s")).unwrap().is_server());
        let agent = who(&basic_value("node:a")).unwrap();
        assert!(agent.is_node() && !agent.is_server() && agent.node_name().is_none());
        for bad in [
            "",
            "Basic",
            "Basic %%",
            "Bearer s",
            &basic_value("server"),
            &basic_value("server:a"),
        ] {
            assert_eq!(who(bad), Err(Refusal::Unauthorized), "{bad}");
        }
        let mut with_certificate = parts(None);
        with_certificate.extensions.insert(PeerIdentity {
            name: PeerName {
                common_name: "system:node:n1".to_owned(),
                organizations: vec![GROUP_NODES.to_owned()],
            },
            certificate: Vec::new().into(),
        });
        let node = identify(&with_certificate, &passwd, &attempts, Duration::ZERO).unwrap();
        assert_eq!(node.node_name(), Some("n1"));
    }

    #[test]
    fn guessing_is_slowed() {
        let passwd = Passwd::new(&Secret::new("s"), &Secret::new("a"));
        let attempts = Attempts::default();
        let who =
            |text: &str, now| identify(&parts(Some(&basic_value(text))), &passwd, &attempts, now);
        for _ in 0..Attempts::PER_WINDOW_MAX {
            assert_eq!(who("server:x", Duration::ZERO), Err(Refusal::Unauthorized));
        }
        // Even the right one is not looked at now, so an answer tells nothing.
        assert_eq!(
            who("server:s", Duration::ZERO),
            Err(Refusal::TooManyAttempts)
        );
        assert!(who("server:s", Attempts::WINDOW).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_credentials_are_refused(value in "([Bb]asic |Bearer )?[ -~]{0,60}") {
            let passwd = Passwd::new(&Secret::new("s"), &Secret::new("a"));
            let who = identify(&parts(Some(&value)), &passwd, &Attempts::default(), Duration::ZERO);
            proptest::prop_assert_eq!(who, Err(Refusal::Unauthorized));
        }
    }
}
