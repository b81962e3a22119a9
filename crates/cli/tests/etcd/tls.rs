//! Certificates, between peers and towards clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use trivet_pki::{Authority, Identity, LeafRequest, ServerTrust, Usage, client_config};

use crate::support::{Member, Site, list, trivet};

/// A CA with certificates in files.
struct Certificates {
    authority: Authority,
    dir: PathBuf,
}

impl Certificates {
    fn new(dir: &Path) -> Self {
        let authority = Authority::generate("test-ca", SystemTime::now()).unwrap();
        std::fs::write(dir.join("ca.crt"), authority.cert_pem()).unwrap();
        Self {
            authority,
            dir: dir.to_owned(),
        }
    }

    /// Writes `<name>.crt` and `<name>.key`.
    fn issue(&self, name: &str) -> Identity {
        let request = LeafRequest {
            common_name: name.to_owned(),
            organization: None,
            usage: Usage::ServerAndClient,
            dns: vec!["localhost".to_owned()],
            ips: vec!["127.0.0.1".parse().unwrap()],
        };
        let leaf = self.authority.issue(&request, SystemTime::now()).unwrap();
        std::fs::write(self.path(name, "crt"), &leaf.cert_pem).unwrap();
        std::fs::write(self.path(name, "key"), leaf.key_pem.expose()).unwrap();
        leaf.identity().unwrap()
    }

    fn path(&self, name: &str, kind: &str) -> String {
        self.dir
            .join(format!("{name}.{kind}"))
            .display()
            .to_string()
    }

    fn client(&self, identity: Option<&Identity>) -> Arc<rustls::ClientConfig> {
        let ca = self.authority.cert_pem().as_bytes();
        client_config(ServerTrust::Pinned(ca), identity, &[b"h2"]).unwrap()
    }
}

/// Flags for TLS with certificates on both ends, for clients and peers.
fn flags(certificates: &Certificates) -> Vec<String> {
    let (cert, key) = (
        certificates.path("server", "crt"),
        certificates.path("server", "key"),
    );
    let ca = certificates.path("ca", "crt");
    vec![
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth".to_owned(),
        format!("--peer-cert-file={cert}"),
        format!("--peer-key-file={key}"),
        format!("--peer-trusted-ca-file={ca}"),
        "--peer-client-cert-auth".to_owned(),
    ]
}

fn founded(site: &Site, names: &[&str], tls: &Arc<rustls::ClientConfig>) -> Vec<Member> {
    let mut members: Vec<Member> = names.iter().map(|name| site.member(name)).collect();
    let list = list(&members);
    for member in &mut members {
        member.flag(&format!("--initial-cluster={list}"));
        member.tls(tls.clone());
        member.start();
    }
    for member in &members {
        member.ready();
    }
    members
}

#[test]
fn three_members_with_certificates() {
    let mut site = Site::with("tls", trivet(), "https");
    let certificates = Certificates::new(site.path());
    let identity = certificates.issue("server");
    let flags = flags(&certificates);
    site.flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let tls = certificates.client(Some(&identity));
    let mut members = founded(&site, &["a", "b", "c"], &tls);
    members[0].put("a", "1").unwrap();
    assert_eq!(members[1].get("a").unwrap().as_deref(), Some("1"));

    // Nobody gets in without a certificate.
    let mut bare = site.member("bare");
    bare.client_url.clone_from(&members[2].client_url);
    bare.tls(certificates.client(None));
    assert!(bare.get("a").is_err());
    bare.tls(tls.clone());
    assert_eq!(bare.get("a").unwrap().as_deref(), Some("1"));

    // A member with a certificate of another CA does not find the cluster.
    let elsewhere = site.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let strangers = Certificates::new(&elsewhere);
    strangers.issue("server");
    let mut stranger = site.member("stranger");
    for flag in self::flags(&strangers) {
        stranger.flag(&flag);
    }
    stranger.existing(&members.iter().collect::<Vec<_>>());
    stranger.start();
    assert_eq!(stranger.ended().code(), Some(1));
    assert!(
        stranger.log().contains("cannot fetch cluster info"),
        "{}",
        stranger.log()
    );
    for member in &mut members {
        assert!(member.stop().success());
    }
}

#[test]
fn names_in_certificates_are_looked_at_where_that_is_asked_for() {
    let mut site = Site::with("names", trivet(), "https");
    let certificates = Certificates::new(site.path());
    let server = certificates.issue("server");
    let friend = certificates.issue("friend");
    let flags = flags(&certificates);
    site.flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    site.flags(&[
        "--peer-cert-allowed-cn=server",
        "--client-cert-allowed-hostname=localhost",
        "--tls-min-version=TLS1.3",
    ]);
    let tls = certificates.client(Some(&friend));
    let mut members = founded(&site, &["a", "b"], &tls);
    members[0].put("a", "1").unwrap();
    // A client may call itself as it likes, a peer may not.
    let mut stranger = site.member("stranger");
    stranger.flag(&format!(
        "--peer-client-cert-file={}",
        certificates.path("friend", "crt")
    ));
    stranger.flag(&format!(
        "--peer-client-key-file={}",
        certificates.path("friend", "key")
    ));
    stranger.existing(&members.iter().collect::<Vec<_>>());
    stranger.start();
    assert_eq!(stranger.ended().code(), Some(1));
    assert!(
        stranger.log().contains("cannot fetch cluster info"),
        "{}",
        stranger.log()
    );
    drop(server);
    for member in &mut members {
        assert!(member.stop().success());
    }
}

#[test]
fn certificates_can_be_made_at_the_start() {
    let mut site = Site::with("auto", trivet(), "https");
    site.flags(&["--auto-tls", "--peer-auto-tls"]);
    let tls = client_config(ServerTrust::Unverified, None, &[b"h2"]).unwrap();
    let mut members = founded(&site, &["a", "b"], &tls);
    members[0].put("a", "1").unwrap();
    assert_eq!(members[1].get("a").unwrap().as_deref(), Some("1"));
    for member in &mut members {
        assert!(member.stop().success());
    }
}
