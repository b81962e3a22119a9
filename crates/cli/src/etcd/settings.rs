//! What the flags mean: defaults, checks, and the settings of a store.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use trivet_store_etcd::{AuthSettings, Founder};

use super::flags::{Effect, Given};

/// etcd's limit for `--election-timeout`.
const ELECTION_MS_MAX: u64 = 50_000;

/// Settings of a member, as far as they need no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) data_dir: PathBuf,
    pub(super) listen_peer: Vec<Url>,
    pub(super) listen_client: Vec<Url>,
    pub(super) listen_client_http: Vec<Url>,
    pub(super) listen_metrics: Vec<Url>,
    pub(super) advertise_peer: Vec<Url>,
    pub(super) advertise_client: Vec<Url>,
    pub(super) initial_cluster: Vec<Founder>,
    pub(super) token: String,
    /// Whether the member was added to a running cluster.
    pub(super) existing: bool,
    pub(super) force_new_cluster: bool,
    pub(super) strict_reconfig: bool,
    pub(super) heartbeat: Duration,
    pub(super) election_timeout: Duration,
    pub(super) watch_progress: Duration,
    pub(super) auth: AuthSettings,
}

/// `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?}: {why}");
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("a URL of the form http://host:port is expected"))?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            "unix" | "unixs" => return Err(bad("unix sockets are not available")),
            _ => return Err(bad("the URL scheme must be http or https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("the URL must be scheme, host and port only"));
        }
        let (host, port) = rest
            .rsplit_once(':')
            .ok_or_else(|| bad("the port is missing"))?;
        let port = port.parse().map_err(|_| bad("the port is no number"))?;
        let host = host
            .strip_prefix('[')
            .map_or(Some(host), |host| host.strip_suffix(']'))
            .ok_or_else(|| bad("the brackets do not match"))?;
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }

    /// The address to bind. Names other than localhost could move.
    pub(super) fn bind(&self) -> Result<SocketAddr, String> {
        let ip = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        Ok(SocketAddr::new(ip, self.port))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Flags that were given and have no effect, and a refusal if one cannot be ignored.
pub(super) fn without_effect(given: &Given) -> Result<Vec<&'static str>, String> {
    let mut ignored = Vec::new();
    for (flag, value) in given.iter() {
        match flag.effect {
            Effect::Used => {}
            Effect::Ignored => ignored.push(flag.name),
            Effect::Refused(_) if value.is_empty() || value == "false" => {}
            Effect::Refused(reason) => return Err(format!("--{}: {reason}", flag.name)),
        }
    }
    Ok(ignored)
}

/// How users prove who they are.
fn auth(given: &Given) -> Result<AuthSettings, String> {
    let mut auth = AuthSettings::default();
    if let Some(token) = given.get("auth-token") {
        auth.token = token
            .parse()
            .map_err(|error| format!("--auth-token: {error}"))?;
    }
    if let Some(seconds) = given.get("auth-token-ttl") {
        auth.token_ttl = seconds
            .parse()
            .ok()
            .filter(|seconds| (1..=u64::from(u32::MAX)).contains(seconds))
            .map(Duration::from_secs)
            .ok_or_else(|| format!("--auth-token-ttl {seconds:?}: seconds are expected"))?;
    }
    if let Some(cost) = given.get("bcrypt-cost") {
        auth.bcrypt_cost = cost
            .parse()
            .ok()
            .filter(|cost| (4..=31).contains(cost))
            .ok_or_else(|| format!("--bcrypt-cost {cost:?}: a number from 4 to 31 is expected"))?;
    }
    Ok(auth)
}

impl Settings {
    pub(super) fn new(given: &Given) -> Result<Self, String> {
        let text = |name: &str, default: &str| given.get(name).unwrap_or(default).to_owned();
        let urls = |name: &str, default: &str| urls(name, given.get(name).unwrap_or(default));
        let name = text("name", "default");
        if name.is_empty() || name.len() > 255 || name.contains([',', '=']) {
            return Err(format!(
                "--name {name:?}: a name has 1 to 255 bytes, and neither commas nor equal signs"
            ));
        }
        let data_dir = match given.get("data-dir") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from(format!("{name}.etcd")),
        };
        if given.has("listen-client-urls") && !given.has("advertise-client-urls") {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .to_owned(),
            );
        }
        let advertise_peer = urls("initial-advertise-peer-urls", "http://localhost:2380")?;
        let initial_cluster = match given.get("initial-cluster") {
            Some(list) if !list.is_empty() => founders(list)?,
            _ => vec![Founder {
                name: name.clone(),
                peer_urls: advertise_peer.iter().map(Url::to_string).collect(),
            }],
        };
        let existing = match text("initial-cluster-state", "new").as_str() {
            "new" => false,
            "existing" => true,
            other => {
                return Err(format!(
                    "--initial-cluster-state {other:?}: \"new\" or \"existing\" is expected"
                ));
            }
        };
        let (heartbeat, election_timeout) = timing(given)?;
        let settings = Self {
            data_dir,
            listen_peer: urls("listen-peer-urls", "http://localhost:2380")?,
            listen_client: urls("listen-client-urls", "http://localhost:2379")?,
            listen_client_http: urls("listen-client-http-urls", "")?,
            listen_metrics: urls("listen-metrics-urls", "")?,
            advertise_client: urls("advertise-client-urls", "http://localhost:2379")?,
            advertise_peer,
            initial_cluster,
            token: text("initial-cluster-token", "etcd-cluster"),
            existing,
            force_new_cluster: given.on("force-new-cluster", false),
            strict_reconfig: given.on("strict-reconfig-check", true),
            heartbeat,
            election_timeout,
            watch_progress: progress(given)?,
            auth: auth(given)?,
            name,
        };
        settings.check_addresses()?;
        Ok(settings)
    }

    fn check_addresses(&self) -> Result<(), String> {
        let needed = [
            ("listen-peer-urls", &self.listen_peer),
            ("listen-client-urls", &self.listen_client),
            ("initial-advertise-peer-urls", &self.advertise_peer),
            ("advertise-client-urls", &self.advertise_client),
        ];
        for (flag, urls) in needed {
            if urls.is_empty() {
                return Err(format!("--{flag}: at least one URL is needed"));
            }
        }
        let all = [
            &self.listen_peer,
            &self.listen_client,
            &self.listen_client_http,
            &self.listen_metrics,
        ];
        let mut bound = BTreeSet::new();
        for url in all.into_iter().flatten() {
            let address = url.bind()?;
            if address.port() != 0 && !bound.insert(address) {
                return Err(format!("{url}: this address is to be listened on twice"));
            }
        }
        let first = self.listen_peer.first().map(|url| url.tls);
        if self.listen_peer.iter().any(|url| Some(url.tls) != first) {
            return Err("--listen-peer-urls: either all URLs are https or none".to_owned());
        }
        Ok(())
    }

    /// Whether the list of members and what this one says about itself fit together. Of interest
    /// only where there is no data yet.
    pub(super) fn check_founding(&self) -> Result<(), String> {
        let Some(own) = self
            .initial_cluster
            .iter()
            .find(|founder| founder.name == self.name)
        else {
            return Err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        let listed: BTreeSet<&str> = own.peer_urls.iter().map(String::as_str).collect();
        let advertised: Vec<String> = self.advertise_peer.iter().map(Url::to_string).collect();
        let said: BTreeSet<&str> = advertised.iter().map(String::as_str).collect();
        if listed == said {
            return Ok(());
        }
        Err(format!(
            "--initial-cluster has {}={} but --initial-advertise-peer-urls={}: the two must name the same URLs",
            self.name,
            own.peer_urls.join(","),
            advertised.join(",")
        ))
    }

    /// Whether a URL of this kind asks for TLS settings.
    pub(super) fn clients_over_tls(&self) -> bool {
        self.listen_client
            .iter()
            .chain(&self.listen_client_http)
            .chain(&self.listen_metrics)
            .any(|url| url.tls)
    }

    pub(super) fn peers_over_tls(&self) -> bool {
        self.listen_peer.iter().any(|url| url.tls)
    }
}

fn urls(flag: &str, list: &str) -> Result<Vec<Url>, String> {
    list.split(',')
        .map(str::trim)
        .filter(|url| !url.is_empty())
        .map(|url| Url::parse(url).map_err(|problem| format!("--{flag}: {problem}")))
        .collect()
}

/// `a=http://h:1,b=http://h:2`; a name with several URLs stands there several times.
fn founders(list: &str) -> Result<Vec<Founder>, String> {
    let mut founders: Vec<Founder> = Vec::new();
    for entry in list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        let bad = |why: &str| format!("--initial-cluster: {entry:?}: {why}");
        let (name, url) = entry
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| bad("an entry of the form NAME=URL is expected"))?;
        let url = Url::parse(url)
            .map_err(|problem| bad(&problem))?
            .to_string();
        if founders.iter().any(|known| known.peer_urls.contains(&url)) {
            return Err(bad("duplicate URL in the list"));
        }
        match founders.iter_mut().find(|known| known.name == name) {
            Some(known) => known.peer_urls.push(url),
            None => founders.push(Founder {
                name: name.to_owned(),
                peer_urls: vec![url],
            }),
        }
    }
    Ok(founders)
}

fn timing(given: &Given) -> Result<(Duration, Duration), String> {
    let millis = |name: &str, default: u64| match given.get(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| format!("invalid value {text:?} for flag -{name}: parse error")),
    };
    let heartbeat = millis("heartbeat-interval", 100)?;
    let election = millis("election-timeout", 1000)?;
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election < heartbeat.saturating_mul(5) {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok((
        Duration::from_millis(heartbeat),
        Duration::from_millis(election),
    ))
}

fn progress(given: &Given) -> Result<Duration, String> {
    const NAME: &str = "watch-progress-notify-interval";
    let Some(text) = given.get(NAME) else {
        return Ok(Duration::from_secs(600));
    };
    duration(text)
        .filter(|interval| *interval >= Duration::from_millis(100))
        .ok_or_else(|| format!("--{NAME} {text:?}: a duration of at least 100ms is expected"))
}

/// A duration as Go writes them (`1h30m`, `100ms`); a bare number, as a settings file may have it,
/// is in nanoseconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if let Ok(nanos) = text.parse() {
        return Some(Duration::from_nanos(nanos));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::super::flags::parse;
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Settings::new(&parse(&words)?)
    }

    #[test]
    fn defaults_are_etcds() {
        let settings = settings("").unwrap();
        assert_eq!(settings.name, "default");
        assert_eq!(settings.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(
            settings.listen_client[0].to_string(),
            "http://localhost:2379"
        );
        assert_eq!(
            settings.listen_peer[0].bind().unwrap().to_string(),
            "127.0.0.1:2380"
        );
        assert_eq!(settings.initial_cluster.len(), 1);
        assert_eq!(
            settings.initial_cluster[0].peer_urls,
            ["http://localhost:2380"]
        );
        assert!(settings.strict_reconfig && !settings.existing);
        assert_eq!(settings.watch_progress, Duration::from_secs(600));
        settings.check_founding().unwrap();
    }

    #[test]
    fn tokens_and_passwords_are_as_told() {
        let auth = settings("--auth-token-ttl 7 --bcrypt-cost 5").unwrap().auth;
        assert_eq!((auth.token_ttl.as_secs(), auth.bcrypt_cost), (7, 5));
        settings("--auth-token jwt,sign-method=HS256,priv-key=/k").unwrap();
        for line in [
            "--auth-token jwt",
            "--auth-token none",
            "--auth-token-ttl 0",
            "--auth-token-ttl 5m",
            "--bcrypt-cost 3",
            "--bcrypt-cost 32",
        ] {
            let flag = line.split(' ').next().unwrap();
            let error = settings(line).unwrap_err();
            assert!(error.starts_with(flag), "{line}: {error}");
        }
    }

    #[test]
    fn the_list_of_members_follows_the_name_and_the_address() {
        let alone = settings("--name a --initial-advertise-peer-urls http://10.0.0.1:1").unwrap();
        assert_eq!(alone.initial_cluster[0].name, "a");
        assert_eq!(alone.initial_cluster[0].peer_urls, ["http://10.0.0.1:1"]);
        alone.check_founding().unwrap();
        let many = "--name b --initial-cluster a=http://h:1,b=http://h:2,b=http://h:3";
        let listed = settings(many).unwrap();
        assert_eq!(listed.initial_cluster.len(), 2);
        let wrong = listed.check_founding().unwrap_err();
        assert!(wrong.contains("b=http://h:2,http://h:3"), "{wrong}");
        let right = format!("{many} --initial-advertise-peer-urls http://h:3,http://h:2");
        settings(&right).unwrap().check_founding().unwrap();
        let stranger = settings("--name c --initial-cluster a=http://h:1").unwrap();
        let wrong = stranger.check_founding().unwrap_err();
        assert!(wrong.contains("couldn't find local name \"c\""), "{wrong}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (line, message) in [
            (
                "--listen-client-urls http://127.0.0.1:1",
                "--advertise-client-urls is required",
            ),
            ("--heartbeat-interval 300", "at least as 5 times"),
            ("--heartbeat-interval 0", "must be >0"),
            ("--heartbeat-interval x", "parse error"),
            ("--election-timeout 60000", "too long"),
            (
                "--listen-peer-urls http://example.com:2380",
                "expected IP in URL for binding",
            ),
            ("--listen-peer-urls ftp://127.0.0.1:1", "scheme"),
            ("--listen-peer-urls unix://x:1", "unix sockets"),
            ("--listen-peer-urls http://127.0.0.1", "port"),
            ("--listen-peer-urls http://127.0.0.1:1/x", "only"),
            ("--listen-peer-urls 127.0.0.1:1", "URL"),
            ("--listen-peer-urls=", "at least one"),
            (
                "--listen-peer-urls http://127.0.0.1:1,https://127.0.0.1:2",
                "either all",
            ),
            ("--listen-metrics-urls http://127.0.0.1:2379", "twice"),
            ("--initial-cluster a", "NAME=URL"),
            (
                "--initial-cluster a=http://h:1,b=http://h:1",
                "duplicate URL",
            ),
            ("--initial-cluster-state old", "\"new\" or \"existing\""),
            ("--name a,b", "--name"),
            ("--watch-progress-notify-interval 1ms", "100ms"),
        ] {
            let error = settings(line).unwrap_err();
            assert!(error.contains(message), "{line}: {error}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("10m", Some(600_000)),
            ("1h30m", Some(5_400_000)),
            ("100ms", Some(100)),
            ("1.5s", Some(1500)),
            ("2000000", Some(2)),
            ("", None),
            ("5", Some(0)),
            ("5x", None),
            ("s", None),
            ("9999999999999999999h", None),
        ] {
            let millis = duration(text).map(|duration| duration.as_millis());
            assert_eq!(millis, expected, "{text:?}");
        }
    }

    #[test]
    fn flags_without_effect_are_told_and_others_refused() {
        let given = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            parse(&words).unwrap()
        };
        assert_eq!(
            without_effect(&given("--name a --snapshot-count 5 --pre-vote=true")),
            Ok(vec!["pre-vote", "snapshot-count"])
        );
        assert!(without_effect(&given("--discovery http://d")).is_err());
        assert!(without_effect(&given("--enable-v2")).is_err());
        assert_eq!(without_effect(&given("--enable-v2=false")), Ok(vec![]));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer(text in "(?s).{0,60}") {
            let _ = Url::parse(&text);
            let _ = duration(&text);
            let _ = founders(&text);
        }

        #[test]
        fn urls_are_printed_as_they_are_read(
            host in "[a-z][a-z0-9.-]{0,10}|10\\.0\\.0\\.1|\\[::1\\]", port: u16, tls: bool
        ) {
            let text = format!("http{}://{host}:{port}", if tls { "s" } else { "" });
            proptest::prop_assert_eq!(Url::parse(&text).unwrap().to_string(), text);
        }
    }
}
