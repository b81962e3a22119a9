//! Which server is next. Pure: no sockets, no clock.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

/// The servers of a cluster in order of preference.
///
/// Invariant: `current` is first in [`Servers::order`] until it fails; the configured server is
/// last when the cluster does not list it.
pub(super) struct Servers {
    default: String,
    listed: Vec<String>,
    /// Cancelled when the server leaves the list: its connections must move on.
    tokens: BTreeMap<String, CancellationToken>,
}

impl Servers {
    pub(super) fn new(default: String) -> Self {
        Self {
            default,
            listed: Vec::new(),
            tokens: BTreeMap::new(),
        }
    }

    /// Every address to try, best first.
    pub(super) fn order(&self) -> Vec<String> {
        let mut order = self.listed.clone();
        if !order.contains(&self.default) {
            order.push(self.default.clone());
        }
        order
    }

    /// Takes over a new list, in random order (so that agents spread over the servers), but
    /// keeps the current server in front if it is still there. Tells whether anything changed.
    pub(super) fn replace(
        &mut self,
        addresses: Vec<String>,
        random_below: &mut dyn FnMut(usize) -> usize,
    ) -> bool {
        let mut new = addresses;
        new.sort();
        new.dedup();
        let mut old = self.listed.clone();
        old.sort();
        if new == old {
            return false;
        }
        // Before the first list the configured server is the current one.
        let current = self
            .listed
            .first()
            .cloned()
            .unwrap_or_else(|| self.default.clone());
        for last in (1..new.len()).rev() {
            new.swap(last, random_below(last + 1));
        }
        if let Some(position) = new.iter().position(|address| *address == current) {
            new[..=position].rotate_right(1);
        }
        self.tokens.retain(|address, token| {
            let stays = new.contains(address);
            if !stays {
                token.cancel();
            }
            stays
        });
        self.listed = new;
        true
    }

    /// A connection was made: stay with this server. The token ends the connection when the
    /// server leaves the list.
    pub(super) fn connected(&mut self, address: &str) -> CancellationToken {
        if let Some(position) = self.listed.iter().position(|listed| listed == address) {
            self.listed[..=position].rotate_right(1);
        }
        self.tokens.entry(address.to_owned()).or_default().clone()
    }

    /// A connection could not be made: this server goes to the end.
    pub(super) fn failed(&mut self, address: &str) {
        if let Some(position) = self.listed.iter().position(|listed| listed == address) {
            self.listed[position..].rotate_left(1);
        }
    }

    /// The current server answers, but not usefully: it goes to the end, and its connections
    /// are ended so that clients meet the next one. Nothing happens where there is no other.
    pub(super) fn move_on(&mut self) {
        if self.listed.len() < 2 {
            return;
        }
        let current = self.listed[0].clone();
        self.failed(&current);
        if let Some(token) = self.tokens.remove(&current) {
            token.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(bound: usize) -> usize {
        bound - 1
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_configured_server_is_first_until_listed_and_last_when_not() {
        let mut servers = Servers::new("x".into());
        assert_eq!(servers.order(), ["x"]);
        assert!(servers.replace(names(&["a", "b"]), &mut last));
        assert_eq!(servers.order().last().unwrap(), "x");
        assert!(servers.replace(names(&["a", "b", "x"]), &mut last));
        assert_eq!(servers.order().len(), 3);
    }

    #[test]
    fn sticks_to_what_works() {
        let mut servers = Servers::new("x".into());
        servers.replace(names(&["a", "b", "c"]), &mut last);
        servers.connected("b");
        assert_eq!(servers.order()[0], "b");
        servers.failed("b");
        assert_ne!(servers.order()[0], "b");
        servers.connected("c");
        servers.replace(names(&["c", "d"]), &mut last);
        assert_eq!(servers.order()[0], "c");
    }

    #[test]
    fn the_same_list_in_another_order_is_no_change() {
        let mut servers = Servers::new("x".into());
        assert!(servers.replace(names(&["a", "b"]), &mut last));
        assert!(!servers.replace(names(&["b", "a", "a"]), &mut last));
    }

    #[test]
    fn moving_on_ends_connections_and_needs_an_alternative() {
        let mut servers = Servers::new("a".into());
        let token = servers.connected("a");
        servers.move_on();
        assert!(!token.is_cancelled());
        servers.replace(names(&["a", "b"]), &mut last);
        servers.move_on();
        assert!(token.is_cancelled());
        assert_eq!(servers.order(), ["b", "a"]);
        assert!(!servers.connected("a").is_cancelled());
    }

    #[test]
    fn leaving_servers_are_told() {
        let mut servers = Servers::new("a".into());
        let token = servers.connected("a");
        servers.replace(names(&["a", "b"]), &mut last);
        assert!(!token.is_cancelled());
        servers.replace(names(&["b"]), &mut last);
        assert!(token.is_cancelled());
    }
}
