//! The administrator's kubeconfig, as K3s writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The file's text. Everything is named `default`.
pub(crate) fn render(url: &str, server_ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> String {
    format!(
        "apiVersion: v1\n\
         clusters:\n\
         - cluster:\n    certificate-authority-data: {ca}\n    server: {url}\n  name: default\n\
         contexts:\n\
         - context:\n    cluster: default\n    user: default\n  name: default\n\
         current-context: default\n\
         kind: Config\n\
         preferences: {{}}\n\
         users:\n\
         - name: default\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n",
        ca = STANDARD.encode(server_ca_pem),
        cert = STANDARD.encode(cert_pem),
        key = STANDARD.encode(key_pem),
    )
}
