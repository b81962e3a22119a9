//! `k3s_args`, and what the settings mean together.

use super::{Checker, Scope};
use crate::config::Item;
use crate::finding::{Finding, Kind};
use crate::flags::{self, Taker};
use crate::start::{Role, Start};

const ARGS: &str = "k3os.k3s_args";
const URL: &str = "k3os.server_url";
const TOKEN: &str = "k3os.token";

impl Checker<'_> {
    /// Checks the command line that the file leads to.
    pub(super) fn arguments(&mut self) {
        let start = Start::of(&self.document);
        let items = self.document.list(ARGS).to_vec();
        self.words(&items, start.role);
        self.conflicts(&items);
        if self.scope == Scope::Whole && self.exact {
            self.missing(&items, &start);
        }
    }

    fn words(&mut self, items: &[Item], role: Role) {
        let mut index = 0;
        if let Some(first) = items.first()
            && !first.text.starts_with('-')
            && !first.text.is_empty()
        {
            index = 1;
            if !matches!(first.text.as_str(), "server" | "agent")
                && !self.faulty.contains(&first.at)
            {
                let mut words = first.text.split_whitespace();
                let command = words.next().unwrap_or_default();
                let finding = if words.next().is_some() {
                    let list: Vec<&str> = first.text.split_whitespace().collect();
                    bad(
                        first,
                        0,
                        "one string is one argument; it is not split at blanks",
                    )
                    .help(format!("write a list: k3s_args: [{}]", list.join(", ")))
                } else {
                    bad(first, 0, "neither server nor agent, and no flag").help(format!(
                        "the first argument is server or agent, not {command}"
                    ))
                };
                self.report(finding);
                return;
            }
        }
        while index < items.len() {
            let at = index;
            index += 1;
            let item = &items[at];
            if self.is_full() {
                return;
            }
            let Some((name, inline)) = flags::split(&item.text) else {
                // Without a text there is an error already, or nothing to say.
                if !item.text.is_empty() && !self.faulty.contains(&item.at) {
                    self.report(
                        bad(item, at, "belongs to no flag").help(
                            "flags begin with --; a value follows its flag or stands behind =",
                        ),
                    );
                }
                continue;
            };
            if flags::is_secret(name) {
                self.secrets
                    .push((item.at, crate::source::Position::new(item.at.line + 1, 1)));
            }
            if self.faulty.contains(&item.at) {
                continue;
            }
            if name.contains(char::is_whitespace) {
                let (flag, value) = item
                    .text
                    .split_once(char::is_whitespace)
                    .unwrap_or_default();
                let value = value.trim();
                let shown = if flags::is_secret(flag.trim_start_matches('-')) {
                    "VALUE"
                } else {
                    value
                };
                let message = "each entry is one argument: the blank is part of the flag's name";
                self.report(bad(item, at, message).help(format!(
                    "write \"{flag}={shown}\", or two entries: \"{flag}\" and \"{shown}\""
                )));
                continue;
            }
            let Some(flag) = flags::find(name) else {
                if let Some(new) = flags::removed(name) {
                    if inline.is_none()
                        && items
                            .get(index)
                            .is_some_and(|next| !next.text.starts_with('-'))
                    {
                        index += 1;
                    }
                    self.report(removed(item, at, name, new));
                } else {
                    self.report(unknown(item, at, name));
                }
                continue;
            };
            let other = match (flag.taker, role) {
                (Taker::Server, Role::Agent) => Some("a flag of servers; an agent refuses it"),
                (Taker::Agent, Role::Server) => Some("a flag of agents; a server refuses it"),
                _ => None,
            };
            if let Some(message) = other {
                self.report(bad(item, at, message).help("remove it"));
            }
            if flag.takes_value && inline.is_none() {
                match items.get(index) {
                    Some(next) if !next.text.starts_with("--") => {
                        if flags::is_secret(name) {
                            let end = crate::source::Position::new(next.at.line + 1, 1);
                            self.secrets.push((next.at, end));
                        }
                        index += 1;
                    }
                    _ => self.report(
                        bad(item, at, "this flag needs a value")
                            .help(format!("write --{}=VALUE", flag.name)),
                    ),
                }
            }
        }
    }

    fn conflicts(&mut self, items: &[Item]) {
        let words = self.document.words();
        let url = self.document.text(URL).is_some();
        let token = self.document.text(TOKEN).is_some();
        let by_flag = flags::values(&words, "server").first().map(|(at, _)| *at);
        let conflict = |at: usize, with: &str, message: &str, help: &str| {
            Finding::error(Kind::Conflict, items[at].at, word_path(at), message)
                .wide(items[at].text.chars().count())
                .help(help)
                .detail("with", with)
        };
        let mut found = Vec::new();
        if let Some(at) = flags::is_on(&words, "cluster-init") {
            let with = match by_flag {
                _ if url => Some(URL.to_owned()),
                Some(flag) => Some(word_path(flag)),
                None => None,
            };
            if let Some(with) = with {
                found.push(conflict(
                    at,
                    &with,
                    "with a server to join the node joins, and founds nothing",
                    "the first server has --cluster-init and no URL; all others have the URL",
                ));
            }
        }
        if let Some(at) = by_flag.filter(|_| url) {
            found.push(conflict(
                at,
                URL,
                "the server to join is given twice; server_url is not used",
                "keep server_url and remove the flag",
            ));
        }
        for name in ["token", "token-file"] {
            if let Some((at, _)) = flags::values(&words, name).first().filter(|_| token) {
                found.push(conflict(
                    *at,
                    TOKEN,
                    "the token is given twice; k3os.token is not used",
                    "keep k3os.token and remove the flag",
                ));
            }
        }
        for (variable, path, given) in [("K3S_URL", URL, url), ("K3S_TOKEN", TOKEN, token)] {
            let entry = self
                .document
                .map("k3os.environment")
                .iter()
                .find(|(name, _)| name == variable);
            if let Some((name, item)) = entry.filter(|_| given) {
                let path_here = format!("k3os.environment.{name}");
                let message = format!("given twice; {path} wins");
                found.push(
                    Finding::error(Kind::Conflict, item.at, path_here, message)
                        .help("remove it here")
                        .detail("with", path),
                );
            }
        }
        for finding in found {
            self.report(finding);
        }
    }

    fn missing(&mut self, items: &[Item], start: &Start) {
        let words = self.document.words();
        let url_presumed = self.presumed.contains(URL);
        let first = items.first().map(|item| (item.at, word_path(0)));
        let joins = start.join_url().is_some();
        if start.role == Role::Agent
            && !joins
            && !url_presumed
            && let Some((at, path)) = first.clone()
        {
            self.report(
                Finding::error(
                    Kind::MissingServerUrl,
                    at,
                    path,
                    "an agent needs a server to join",
                )
                .wide(items[0].text.chars().count())
                .help("add under k3os: server_url: https://HOST:6443"),
            );
        }
        if (start.role == Role::Agent || joins)
            && !start.has_token()
            && !self.presumed.contains(TOKEN)
        {
            let place = self
                .document
                .get(URL)
                .map(|setting| (setting.origin.value, URL.to_owned()))
                .or_else(|| {
                    let (at, _) = flags::values(&words, "server").first().copied()?;
                    Some((items[at].at, word_path(at)))
                })
                .or(first);
            if let Some((at, path)) = place {
                self.report(
                    Finding::error(
                        Kind::MissingToken,
                        at,
                        path,
                        "a node that joins needs the cluster's token",
                    )
                    .help("add under k3os: token: …  (`trivet token show` prints it on a server)"),
                );
            }
        }
    }
}

fn word_path(index: usize) -> String {
    format!("{ARGS}[{index}]")
}

fn bad(item: &Item, index: usize, message: &str) -> Finding {
    Finding::error(Kind::BadK3sArg, item.at, word_path(index), message)
        .wide(item.text.chars().count())
}

fn removed(item: &Item, index: usize, name: &str, new: &str) -> Finding {
    let finding = Finding::warning(
        Kind::DeprecatedK3sArg,
        item.at,
        word_path(index),
        format!("--{name} was removed from K3s"),
    )
    .wide(item.text.chars().count());
    if new.is_empty() {
        finding.help("remove it")
    } else {
        finding.help(format!("use {new}")).detail("suggest", new)
    }
}

fn unknown(item: &Item, index: usize, name: &str) -> Finding {
    let finding = bad(item, index, "no such flag; the node would not start");
    match flags::suggest(name) {
        Some(near) => finding
            .help(format!("did you mean --{near}?"))
            .detail("suggest", format!("--{near}")),
        None => finding,
    }
}
