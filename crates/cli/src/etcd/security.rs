//! TLS as the flags want it.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use trivet_pki::{
    ALPN_HTTP, Authority, ClientAuth, ClientName, Identity, LeafRequest, ServerTrust,
    SwappableIdentity, TlsRules, TlsVersion, Usage, client_config_with, load_pem,
    server_config_with,
};
use trivet_store_etcd::PeerSecurity;

use super::flags::Given;
use super::settings::{Settings, Url};

/// Names of the flags of one side.
struct Names {
    cert: &'static str,
    key: &'static str,
    ca: &'static str,
    auth: &'static str,
    auto: &'static str,
    revoked: &'static str,
}

const CLIENTS: Names = Names {
    cert: "cert-file",
    key: "key-file",
    ca: "trusted-ca-file",
    auth: "client-cert-auth",
    auto: "auto-tls",
    revoked: "client-crl-file",
};

const PEERS: Names = Names {
    cert: "peer-cert-file",
    key: "peer-key-file",
    ca: "peer-trusted-ca-file",
    auth: "peer-client-cert-auth",
    auto: "peer-auto-tls",
    revoked: "peer-crl-file",
};

/// What the files of one side contain. Reading them blocks.
struct Side {
    identity: Identity,
    ca: Option<Vec<u8>>,
    /// Whether whoever connects must show a certificate.
    auth: bool,
    rules: TlsRules,
}

impl Side {
    fn load(given: &Given, names: &Names, listen: &[Url]) -> Result<Self, String> {
        let auth = given.on(names.auth, false);
        let ca = match text(given, names.ca) {
            Some(path) => Some(read(names.ca, path)?),
            None if auth => {
                return Err(format!("--{} needs --{}", names.auth, names.ca));
            }
            None => None,
        };
        let identity = match (text(given, names.cert), text(given, names.key)) {
            (Some(cert), Some(key)) => identity(names, cert, key)?,
            (None, None) if given.on(names.auto, false) => made_now(listen)?,
            (None, None) => {
                return Err(format!(
                    "an https URL is to be listened on: --{} and --{}, or --{}, must be given",
                    names.cert, names.key, names.auto
                ));
            }
            _ => return Err(format!("--{} and --{} go together", names.cert, names.key)),
        };
        let mut rules = common_rules(given)?;
        if let Some(path) = text(given, names.revoked) {
            rules.revoked = Some(read(names.revoked, path)?);
        }
        Ok(Self {
            identity,
            ca,
            auth,
            rules,
        })
    }

    fn server(&self, alpn: &[&[u8]]) -> Result<Arc<rustls::ServerConfig>, String> {
        let clients = match &self.ca {
            Some(ca) if self.auth => ClientAuth::Required(ca),
            // Without the demand a certificate is not even looked at, as in etcd.
            _ => ClientAuth::None,
        };
        let identity = SwappableIdentity::new(self.identity.clone());
        server_config_with(identity, clients, &self.rules, alpn).map_err(|error| error.to_string())
    }
}

/// TLS for clients, if any URL asks for it.
pub(super) fn clients(
    given: &Given,
    settings: &Settings,
) -> Result<Option<Arc<rustls::ServerConfig>>, String> {
    if !settings.clients_over_tls() {
        return Ok(None);
    }
    let mut side = Side::load(given, &CLIENTS, &settings.listen_client)?;
    if let Some(host) = text(given, "client-cert-allowed-hostname") {
        side.rules.names = names(
            "client-cert-allowed-hostname",
            host,
            ClientName::Host,
            &side,
        )?;
    }
    side.server(ALPN_HTTP).map(Some)
}

/// TLS for listeners that ask for no certificate: those of metrics.
pub(super) fn metrics(
    given: &Given,
    settings: &Settings,
) -> Result<Option<Arc<rustls::ServerConfig>>, String> {
    if !settings.listen_metrics.iter().any(|url| url.tls) {
        return Ok(None);
    }
    let mut side = Side::load(given, &CLIENTS, &settings.listen_client)?;
    side.auth = false;
    side.server(ALPN_HTTP).map(Some)
}

/// How peers are spoken to.
pub(super) fn peers(given: &Given, settings: &Settings) -> Result<PeerSecurity, String> {
    const H2: &[&[u8]] = &[b"h2"];
    if !settings.peers_over_tls() {
        return Ok(PeerSecurity::Plaintext);
    }
    let mut side = Side::load(given, &PEERS, &settings.listen_peer)?;
    if let Some(name) = text(given, "peer-cert-allowed-cn") {
        side.rules.names = names("peer-cert-allowed-cn", name, ClientName::Common, &side)?;
    }
    if let Some(host) = text(given, "peer-cert-allowed-hostname") {
        if !side.rules.names.is_empty() {
            return Err(
                "--peer-cert-allowed-cn and --peer-cert-allowed-hostname exclude each other"
                    .to_owned(),
            );
        }
        side.rules.names = names("peer-cert-allowed-hostname", host, ClientName::Host, &side)?;
    }
    let shown = match (
        text(given, "peer-client-cert-file"),
        text(given, "peer-client-key-file"),
    ) {
        (Some(cert), Some(key)) => identity(&PEERS, cert, key)?,
        (None, None) => side.identity.clone(),
        _ => {
            return Err(
                "--peer-client-cert-file and --peer-client-key-file go together".to_owned(),
            );
        }
    };
    let trust = match &side.ca {
        Some(ca) => ServerTrust::Pinned(ca),
        // Certificates that were made a moment ago cannot be verified by anybody.
        None if given.on(PEERS.auto, false) => ServerTrust::Unverified,
        None => {
            return Err(format!(
                "peers with https URLs are verified against --{}, which must be given",
                PEERS.ca
            ));
        }
    };
    let client = client_config_with(trust, Some(&shown), &side.rules, H2)
        .map_err(|error| error.to_string())?;
    let server = side.server(H2)?;
    Ok(PeerSecurity::Tls { server, client })
}

fn names(
    flag: &str,
    list: &str,
    kind: fn(String) -> ClientName,
    side: &Side,
) -> Result<Vec<ClientName>, String> {
    if !side.auth {
        return Err(format!(
            "--{flag} has no meaning unless certificates are asked for: set the flag for that as well"
        ));
    }
    Ok(list.split(',').map(|name| kind(name.to_owned())).collect())
}

fn common_rules(given: &Given) -> Result<TlsRules, String> {
    let version = |name: &str| match text(given, name) {
        None => Ok(None),
        Some("TLS1.2") => Ok(Some(TlsVersion::Tls12)),
        Some("TLS1.3") => Ok(Some(TlsVersion::Tls13)),
        Some(other) => Err(format!(
            "--{name} {other:?}: \"TLS1.2\" or \"TLS1.3\" is expected"
        )),
    };
    let cipher_suites: Vec<String> = text(given, "cipher-suites")
        .map(|list| list.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    Ok(TlsRules {
        min: version("tls-min-version")?,
        max: version("tls-max-version")?,
        cipher_suites,
        ..TlsRules::default()
    })
}

fn text<'a>(given: &'a Given, name: &str) -> Option<&'a str> {
    given.get(name).filter(|text| !text.is_empty())
}

fn read(flag: &str, path: &str) -> Result<Vec<u8>, String> {
    load_pem(Path::new(path)).map_err(|error| format!("--{flag}: {error}"))
}

fn identity(names: &Names, cert: &str, key: &str) -> Result<Identity, String> {
    Identity::load(Path::new(cert), Path::new(key))
        .map_err(|error| format!("--{} {cert}, --{} {key}: {error}", names.cert, names.key))
}

/// A certificate for the addresses that are listened on, of a CA that nobody keeps.
fn made_now(listen: &[Url]) -> Result<Identity, String> {
    let now = SystemTime::now();
    let mut request = LeafRequest {
        common_name: "etcd".to_owned(),
        organization: None,
        usage: Usage::ServerAndClient,
        dns: vec!["localhost".to_owned()],
        ips: Vec::new(),
    };
    for url in listen {
        match url.host.parse() {
            Ok(ip) => request.ips.push(ip),
            Err(_) if !request.dns.contains(&url.host) => request.dns.push(url.host.clone()),
            Err(_) => {}
        }
    }
    let make = || -> trivet_pki::Result<Identity> {
        Authority::generate("trivet-etcd", now)?
            .issue(&request, now)?
            .identity()
    };
    make().map_err(|error| format!("cannot make a certificate: {error}"))
}
