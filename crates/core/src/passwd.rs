//! `cred/passwd`: who may talk to the supervisor with a password.
//!
//! CSV, one user per line: `password,user,user,group`. Two users matter: `server` (group
//! `k3s:server`) and `node` (group `k3s:agent`).

use trivet_pki::Secret;

/// Group of servers.
pub(crate) const GROUP_SERVER: &str = "k3s:server";
/// Group of agents.
pub(crate) const GROUP_AGENT: &str = "k3s:agent";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    password: Secret,
    user: String,
    uid: String,
    groups: String,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Passwd {
    entries: Vec<Entry>,
}

impl Passwd {
    /// The two users of a new cluster.
    pub(crate) fn new(server: &Secret, agent: &Secret) -> Self {
        let entry = |password: &Secret, user: &str, group: &str| Entry {
            password: password.clone(),
            user: user.to_owned(),
            uid: user.to_owned(),
            groups: group.to_owned(),
        };
        Self {
            entries: vec![
                entry(agent, "node", GROUP_AGENT),
                entry(server, "server", GROUP_SERVER),
            ],
        }
    }

    /// Reads the file; lines that make no sense are left out.
    pub(crate) fn parse(text: &str) -> Self {
        let entries = text
            .lines()
            .filter_map(|line| {
                let mut fields = split_csv(line).into_iter();
                Some(Entry {
                    password: Secret::new(fields.next().filter(|password| !password.is_empty())?),
                    user: fields.next()?,
                    uid: fields.next()?,
                    groups: fields.next().unwrap_or_default(),
                })
            })
            .collect();
        Self { entries }
    }

    /// The file's text. Secret.
    pub(crate) fn to_text(&self) -> String {
        self.entries
            .iter()
            .map(|e| {
                let fields = [e.password.expose(), &e.user, &e.uid, &e.groups].map(quote_csv);
                format!("{}\n", fields.join(","))
            })
            .collect()
    }

    /// Password of a user.
    pub(crate) fn password(&self, user: &str) -> Option<&Secret> {
        self.entries
            .iter()
            .find(|entry| entry.user == user)
            .map(|entry| &entry.password)
    }

    /// Groups of the user when the password is right. Takes the same time for every user and
    /// every password.
    pub(crate) fn verify(&self, user: &str, password: &str) -> Option<Vec<String>> {
        let mut groups = None;
        for entry in &self.entries {
            let right = trivet_pki::constant_time_eq(
                entry.password.expose().as_bytes(),
                password.as_bytes(),
            );
            if right & (entry.user == user) {
                groups = Some(
                    entry
                        .groups
                        .split(',')
                        .map(|group| group.trim().to_owned())
                        .collect(),
                );
            }
        }
        groups
    }
}

fn quote_csv(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) || field.starts_with(' ') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn split_csv(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_k3s() {
        let passwd = Passwd::new(&Secret::new("s"), &Secret::new("a"));
        assert_eq!(
            passwd.to_text(),
            "a,node,node,k3s:agent\ns,server,server,k3s:server\n"
        );
        assert_eq!(passwd.verify("server", "s").unwrap(), [GROUP_SERVER]);
        assert_eq!(passwd.verify("server", "a"), None);
        assert_eq!(passwd.verify("root", "s"), None);
        assert_eq!(Passwd::parse("\nx\n,node,node,g\n"), Passwd::default());
    }

    proptest! {
        #[test]
        fn passwords_survive(server in "[ -~]{1,30}", agent in "[ -~]{1,30}") {
            let passwd = Passwd::new(&Secret::new(server.clone()), &Secret::new(agent));
            let again = Passwd::parse(&passwd.to_text());
            prop_assert_eq!(&again, &passwd);
            prop_assert!(again.verify("server", &server).is_some());
        }

        #[test]
        fn any_text_is_read(text in ".{0,200}") {
            let _ = Passwd::parse(&text);
        }
    }
}
