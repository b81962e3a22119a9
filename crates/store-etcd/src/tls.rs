//! TLS settings from files, and for a store that stays alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use trivet_datastore::{Error, Result, TlsFiles};
use trivet_pki::{
    Authority, ClientAuth, Identity, LeafRequest, ServerTrust, SwappableIdentity, Usage,
    client_config, load_pem, server_config,
};

use trivet_raft_node::PeerSecurity;

use crate::config::PeerSettings;

const ALPN_GRPC: &[&[u8]] = &[b"h2"];

/// Both sides of mutual TLS from the same files.
pub(crate) struct Mutual {
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
}

/// Reads the files. Blocks.
pub(crate) fn load(files: &TlsFiles, alpn: &[&[u8]]) -> Result<Mutual> {
    let build = || -> trivet_pki::Result<Mutual> {
        let ca = load_pem(&files.ca)?;
        let identity = Identity::load(&files.cert, &files.key)?;
        mutual(&ca, identity, alpn)
    };
    build().map_err(|error| {
        Error::Invalid(format!(
            "the TLS files around {} are not usable: {error}",
            files.cert.display()
        ))
    })
}

fn mutual(ca: &[u8], identity: Identity, alpn: &[&[u8]]) -> trivet_pki::Result<Mutual> {
    let client = client_config(ServerTrust::Pinned(ca), Some(&identity), ALPN_GRPC)?;
    let server = server_config(
        SwappableIdentity::new(identity),
        ClientAuth::Required(ca),
        alpn,
    )?;
    Ok(Mutual { server, client })
}

/// For a member without peers. The node wants an address to listen on; a free loopback port
/// behind a CA whose key nobody keeps lets nobody in.
pub(crate) fn alone(now: SystemTime) -> Result<PeerSettings> {
    let build = || -> trivet_pki::Result<Mutual> {
        let authority = Authority::generate("trivet-alone", now)?;
        let request = LeafRequest {
            common_name: "trivet-alone".to_owned(),
            organization: None,
            usage: Usage::ServerAndClient,
            dns: vec!["localhost".to_owned()],
            ips: Vec::new(),
        };
        let identity = authority.issue(&request, now)?.identity()?;
        mutual(authority.cert_pem().as_bytes(), identity, ALPN_GRPC)
    };
    let Mutual { server, client } = build().map_err(|error| Error::Invalid(error.to_string()))?;
    Ok(PeerSettings {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        url: "https://localhost:2380".to_owned(),
        security: PeerSecurity::Mutual { server, client },
    })
}
