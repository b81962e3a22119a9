//! The identity of a cluster on a server's disk: CAs, shared keys, passwords, leaves, tokens.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trivet_join::{BootstrapBundle, BootstrapFile, Token};
use trivet_pki::{Authority, LeafRequest, Secret, Usage};

use crate::config::Config;
use crate::files::{self, PRIVATE};
use crate::layout::Layout;
use crate::passwd::Passwd;
use crate::{StartError, kubeconfig};

/// The CAs: file name below `tls/` and the common name that K3s gives them.
const CAS: [(&str, &str); 5] = [
    ("server-ca", "k3s-server-ca"),
    ("client-ca", "k3s-client-ca"),
    ("request-header-ca", "k3s-request-header-ca"),
    ("etcd/server-ca", "etcd-server-ca"),
    ("etcd/peer-ca", "etcd-peer-ca"),
];

/// Shared files by their name in the bootstrap bundle.
fn shared_files(layout: &Layout) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("ServerCA", layout.tls("server-ca.crt")),
        ("ServerCAKey", layout.tls("server-ca.key")),
        ("ClientCA", layout.tls("client-ca.crt")),
        ("ClientCAKey", layout.tls("client-ca.key")),
        ("RequestHeaderCA", layout.tls("request-header-ca.crt")),
        ("RequestHeaderCAKey", layout.tls("request-header-ca.key")),
        ("ETCDServerCA", layout.tls("etcd/server-ca.crt")),
        ("ETCDServerCAKey", layout.tls("etcd/server-ca.key")),
        ("ETCDPeerCA", layout.tls("etcd/peer-ca.crt")),
        ("ETCDPeerCAKey", layout.tls("etcd/peer-ca.key")),
        ("ServiceKey", layout.tls("service.key")),
        ("PasswdFile", layout.passwd()),
    ]
}

/// Everything that is shared between servers, in memory.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) server_ca: Authority,
    pub(crate) client_ca: Authority,
    pub(crate) service_key: Secret,
    pub(crate) passwd: Passwd,
    pub(crate) ca_hash: String,
}

impl Identity {
    /// The server token in its full form.
    pub(crate) fn server_token(&self) -> Token {
        Token::full(&self.ca_hash, "server", self.password("server"))
    }

    /// The agent token in its full form.
    pub(crate) fn agent_token(&self) -> Token {
        Token::full(&self.ca_hash, "node", self.password("node"))
    }

    /// Password of one of the two users; [`load`] made sure that there are both.
    pub(crate) fn password(&self, user: &str) -> &Secret {
        static EMPTY: std::sync::LazyLock<Secret> = std::sync::LazyLock::new(|| Secret::new(""));
        self.passwd.password(user).unwrap_or(&EMPTY)
    }
}

/// Whether the shared files are all there.
pub(crate) fn is_complete(layout: &Layout) -> Result<bool, StartError> {
    for (_, path) in shared_files(layout) {
        if files::read(&path)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The server token that this machine already has.
pub(crate) fn stored_token(config: &Config) -> Result<Option<Secret>, StartError> {
    let text = files::read_text(&config.layout.passwd())?;
    Ok(text.and_then(|text| Passwd::parse(&text).password("server").cloned()))
}

/// Makes what is missing of a new cluster's identity; what is there stays.
pub(crate) fn create(config: &Config) -> Result<(), StartError> {
    let (layout, now) = (&config.layout, config.env.clock.wall());
    let stamp = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    for (name, common_name) in CAS {
        let (cert, key) = (
            layout.tls(&format!("{name}.crt")),
            layout.tls(&format!("{name}.key")),
        );
        // The certificate is written last, so it says that the pair is complete.
        if files::read(&cert)?.is_some() {
            continue;
        }
        let ca = Authority::generate(&format!("{common_name}@{stamp}"), now).map_err(|source| {
            StartError::Pki {
                path: cert.clone(),
                source,
            }
        })?;
        files::write(&key, ca.key_pem().expose().as_bytes(), PRIVATE)?;
        files::write(&cert, ca.cert_pem().as_bytes(), 0o644)?;
    }
    let key = layout.tls("service.key");
    if files::read(&key)?.is_none() {
        let pem = trivet_pki::generate_key_pem().map_err(|source| StartError::Pki {
            path: key.clone(),
            source,
        })?;
        files::write(&key, pem.expose().as_bytes(), PRIVATE)?;
    }
    if files::read(&layout.passwd())?.is_none() {
        let server = match &config.token {
            Some(token) => token.password(),
            None => trivet_join::random_password(&*config.env.rng),
        };
        let agent = config.agent_token.clone().unwrap_or_else(|| server.clone());
        files::write(
            &layout.passwd(),
            Passwd::new(&server, &agent).to_text().as_bytes(),
            PRIVATE,
        )?;
    }
    Ok(())
}

/// The shared files as they are on disk.
pub(crate) fn bundle(layout: &Layout) -> Result<BootstrapBundle, StartError> {
    let mut bundle = BootstrapBundle::default();
    for (name, path) in shared_files(layout) {
        let Some(content) = files::read(&path)? else {
            continue;
        };
        let changed = std::fs::metadata(&path)
            .and_then(|meta| meta.modified())
            .unwrap_or(UNIX_EPOCH);
        bundle.files.insert(
            name.to_owned(),
            BootstrapFile {
                timestamp: rfc3339(changed),
                content,
            },
        );
    }
    Ok(bundle)
}

/// Checks that a bundle from elsewhere is complete, and that no file on disk says otherwise.
/// Writes nothing.
pub(crate) fn check_bundle(layout: &Layout, bundle: &BootstrapBundle) -> Result<(), StartError> {
    for (name, path) in shared_files(layout) {
        let Some(file) = bundle.files.get(name) else {
            return Err(StartError::Bootstrap(format!(
                "the cluster's bootstrap data has no {name}"
            )));
        };
        // Passwords may have changed since; keys and CAs may not.
        if name != "PasswdFile" && files::read(&path)?.is_some_and(|own| own != file.content) {
            return Err(StartError::OtherIdentity {
                path,
                server_dir: layout.server(),
            });
        }
    }
    Ok(())
}

/// Writes a checked bundle.
pub(crate) fn adopt(layout: &Layout, bundle: &BootstrapBundle) -> Result<(), StartError> {
    for (name, path) in shared_files(layout) {
        let Some(file) = bundle.files.get(name) else {
            continue;
        };
        let mode = if path.extension().is_some_and(|extension| extension == "crt") {
            0o644
        } else {
            PRIVATE
        };
        files::write(&path, &file.content, mode)?;
    }
    Ok(())
}

/// Reads the identity back and checks it against the clock and the token.
pub(crate) fn load(config: &Config) -> Result<Identity, StartError> {
    let layout = &config.layout;
    let server_ca = authority(layout, "server-ca")?;
    trivet_pki::check_clock(server_ca.cert_pem().as_bytes(), config.env.clock.wall())
        .map_err(StartError::Clock)?;
    let passwd = Passwd::parse(&text(layout.passwd())?);
    let missing = || StartError::File {
        path: layout.passwd(),
        source: std::io::Error::other("there must be a line for the users server and node"),
    };
    let server = passwd.password("server").ok_or_else(missing)?;
    passwd.password("node").ok_or_else(missing)?;
    if config
        .token
        .as_ref()
        .is_some_and(|token| token.password() != *server)
    {
        return Err(StartError::OtherToken {
            data_dir: layout.data_dir().to_owned(),
        });
    }
    let ca_hash =
        trivet_pki::ca_hash(server_ca.cert_pem().as_bytes()).map_err(|source| StartError::Pki {
            path: layout.tls("server-ca.crt"),
            source,
        })?;
    Ok(Identity {
        client_ca: authority(layout, "client-ca")?,
        service_key: Secret::new(text(layout.tls("service.key"))?),
        server_ca,
        passwd,
        ca_hash,
    })
}

fn authority(layout: &Layout, name: &str) -> Result<Authority, StartError> {
    let path = layout.tls(&format!("{name}.crt"));
    let key = Secret::new(text(layout.tls(&format!("{name}.key")))?);
    Authority::from_pem(&text(path.clone())?, key.expose())
        .map_err(|source| StartError::Pki { path, source })
}

fn text(path: PathBuf) -> Result<String, StartError> {
    files::read_text(&path)?.ok_or_else(|| StartError::File {
        source: std::io::ErrorKind::NotFound.into(),
        path,
    })
}

/// Names in a leaf.
enum Names {
    None,
    Api,
    Store,
}

/// One leaf: file name, CA, common name, organization, usage, names.
struct Row(
    &'static str,
    &'static str,
    &'static str,
    Option<&'static str>,
    Usage,
    Names,
);

const LEAVES: [Row; 11] = [
    Row(
        "client-admin",
        "client-ca",
        "system:admin",
        Some("system:masters"),
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-supervisor",
        "client-ca",
        "system:k3s-supervisor",
        Some("system:masters"),
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-kube-apiserver",
        "client-ca",
        "system:apiserver",
        Some("system:masters"),
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-controller",
        "client-ca",
        "system:kube-controller-manager",
        None,
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-scheduler",
        "client-ca",
        "system:kube-scheduler",
        None,
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-kube-proxy",
        "client-ca",
        "system:kube-proxy",
        None,
        Usage::Client,
        Names::None,
    ),
    Row(
        "client-auth-proxy",
        "request-header-ca",
        "system:auth-proxy",
        None,
        Usage::Client,
        Names::None,
    ),
    Row(
        "serving-kube-apiserver",
        "server-ca",
        "kube-apiserver",
        None,
        Usage::Server,
        Names::Api,
    ),
    Row(
        "etcd/client",
        "etcd/server-ca",
        "etcd-client",
        None,
        Usage::Client,
        Names::None,
    ),
    Row(
        "etcd/server-client",
        "etcd/server-ca",
        "etcd-server",
        None,
        Usage::ServerAndClient,
        Names::Store,
    ),
    Row(
        "etcd/peer-server-client",
        "etcd/peer-ca",
        "etcd-peer",
        None,
        Usage::ServerAndClient,
        Names::Store,
    ),
];

/// Issues the leaves that are missing, about to expire, signed by another CA or for other
/// names, and makes the keys for agents that send none.
pub(crate) fn issue_leaves(config: &Config) -> Result<(), StartError> {
    let (layout, now) = (&config.layout, config.env.clock.wall());
    let (dns, ips) = api_names(config);
    for Row(name, ca, common_name, organization, usage, names) in LEAVES {
        let (cert_path, key_path) = (
            layout.tls(&format!("{name}.crt")),
            layout.tls(&format!("{name}.key")),
        );
        let failed = |source| StartError::Pki {
            path: cert_path.clone(),
            source,
        };
        let ca = authority(layout, ca)?;
        let (dns, ips) = match names {
            Names::None => (Vec::new(), Vec::new()),
            Names::Api => (dns.clone(), ips.clone()),
            Names::Store => {
                let dns = dns
                    .iter()
                    .filter(|name| !name.starts_with("kubernetes"))
                    .cloned()
                    .collect();
                (dns, ips.clone())
            }
        };
        let current = files::read(&cert_path)?.unwrap_or_default();
        let key = files::read_text(&key_path)?.unwrap_or_default();
        let fits = trivet_pki::Identity::from_pem(&current, &key).is_ok()
            && !trivet_pki::needs_renewal(&current, ca.cert_pem().as_bytes(), &dns, &ips, now);
        if fits {
            continue;
        }
        let request = LeafRequest {
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            usage,
            dns,
            ips,
        };
        let leaf = ca.issue(&request, now).map_err(failed)?;
        // A crash between the two leaves a pair that does not fit and is issued again.
        files::write(&key_path, leaf.key_pem.expose().as_bytes(), PRIVATE)?;
        files::write(&cert_path, leaf.cert_pem.as_bytes(), 0o644)?;
    }
    for name in [
        "client-kubelet.key",
        "serving-kubelet.key",
        "client-k3s-controller.key",
    ] {
        let path = layout.tls(name);
        if files::read(&path)?.is_none() {
            let key = trivet_pki::generate_key_pem().map_err(|source| StartError::Pki {
                path: path.clone(),
                source,
            })?;
            files::write(&path, key.expose().as_bytes(), PRIVATE)?;
        }
    }
    Ok(())
}

/// Every name and address that this server answers to.
fn api_names(config: &Config) -> (Vec<String>, Vec<IpAddr>) {
    let domain = &config.settings.cluster_domain;
    let mut dns: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    dns.push(format!("kubernetes.default.svc.{domain}"));
    dns.push(config.node_name.clone());
    let mut ips = vec![
        IpAddr::from([127, 0, 0, 1]),
        IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    ];
    ips.extend(config.settings.service_ips());
    ips.extend(&config.node_ips);
    ips.extend(config.advertise_address);
    ips.push(config.local_address());
    ips.push(config.node_ip());
    for name in &config.tls_san {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => dns.push(name.clone()),
        }
    }
    (dns, ips)
}

/// Writes the token files and the kubeconfig.
pub(crate) fn write_tokens(
    config: &Config,
    identity: &Identity,
    url: &str,
) -> Result<(), StartError> {
    let layout = &config.layout;
    let line = |token: Token| format!("{}\n", token.to_secret().expose());
    files::write(
        &layout.token(),
        line(identity.server_token()).as_bytes(),
        PRIVATE,
    )?;
    files::link(&layout.node_token(), "token")?;
    if identity.password("node") == identity.password("server") {
        files::link(&layout.agent_token(), "token")?;
    } else {
        files::write(
            &layout.agent_token(),
            line(identity.agent_token()).as_bytes(),
            PRIVATE,
        )?;
    }
    let cert = text(layout.tls("client-admin.crt"))?;
    let key = Secret::new(text(layout.tls("client-admin.key"))?);
    let kubeconfig = kubeconfig::render(
        url,
        identity.server_ca.cert_pem().as_bytes(),
        cert.as_bytes(),
        key.expose().as_bytes(),
    );
    files::write(
        &layout.server().join("cred/admin.kubeconfig"),
        kubeconfig.as_bytes(),
        PRIVATE,
    )?;
    if let Some(output) = &config.kubeconfig {
        files::write(&output.path, kubeconfig.as_bytes(), output.mode)?;
    }
    Ok(())
}

/// Second line of the member's file once the store took the member in.
const JOINED: &str = "joined";

/// The member's file: its name, and whether it ever was a member.
fn member(config: &Config) -> Result<Option<(String, bool)>, StartError> {
    let Some(text) = files::read_text(&config.layout.member_name())? else {
        return Ok(None);
    };
    let mut lines = text.lines().map(str::trim);
    let name = lines.next().filter(|name| !name.is_empty());
    Ok(name.map(|name| (name.to_owned(), lines.next() == Some(JOINED))))
}

/// Name of this server's member, if it has one.
pub(crate) fn known_member_name(config: &Config) -> Result<Option<String>, StartError> {
    Ok(member(config)?.map(|(name, _)| name))
}

/// Whether founding or joining was ever completed. A store that was left half-made has data,
/// but it cannot resume by itself.
pub(crate) fn is_member(config: &Config) -> Result<bool, StartError> {
    Ok(member(config)?.is_some_and(|(_, joined)| joined))
}

/// Name of this server's member, `<node>-<8 hex>`; made up on first use.
pub(crate) fn member_name(config: &Config) -> Result<String, StartError> {
    if let Some(name) = known_member_name(config)? {
        return Ok(name);
    }
    let mut suffix = [0; 4];
    config.env.rng.fill(&mut suffix);
    let name = format!("{}-{}", config.node_name, trivet_pki::hex_encode(&suffix));
    files::write(
        &config.layout.member_name(),
        format!("{name}\n").as_bytes(),
        PRIVATE,
    )?;
    Ok(name)
}

/// Notes that the store took the member in.
pub(crate) fn set_joined(config: &Config) -> Result<(), StartError> {
    let text = format!("{}\n{JOINED}\n", member_name(config)?);
    files::write(&config.layout.member_name(), text.as_bytes(), PRIVATE)
}

fn rfc3339(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}
