//! Questions of the administrator on a server's machine.

use std::path::Path;
use std::time::Duration;

use trivet_join::{ClusterReport, JoinError, Supervisor};
use trivet_pki::Identity;

use crate::layout::Layout;
use crate::{StartError, files};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the state of the cluster cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no server's data here.
    #[error("there is no server in {0}; give its --data-dir, and run this as the user who owns it")]
    NoServer(std::path::PathBuf),
    /// Files cannot be read.
    #[error(transparent)]
    Files(#[from] StartError),
    /// The certificate is not usable.
    #[error(transparent)]
    Pki(#[from] trivet_pki::Error),
    /// The server does not answer.
    #[error("{0}")]
    Server(#[from] JoinError),
}

/// Asks the server whose data is in `data_dir` (at `url`, or where it serves this machine) for
/// the state of the cluster. Works without a quorum.
pub async fn status(data_dir: &Path, url: Option<&str>) -> Result<ClusterReport, StatusError> {
    Ok(administrator(data_dir, url).await?.status().await?)
}

/// A supervisor client with the administrator's certificate from `data_dir`.
pub async fn administrator(data_dir: &Path, url: Option<&str>) -> Result<Supervisor, StatusError> {
    let (layout, url) = (Layout::new(data_dir), url.map(str::to_owned));
    let missing = StatusError::NoServer(data_dir.to_owned());
    let read = move || -> Result<Supervisor, StatusError> {
        let Some(ca) = files::read(&layout.tls("server-ca.crt"))? else {
            return Err(missing);
        };
        let identity = Identity::load(
            &layout.tls("client-admin.crt"),
            &layout.tls("client-admin.key"),
        )?;
        let url = match url {
            Some(url) => url,
            None => match files::read_text(&layout.server().join("cred/admin.kubeconfig"))?
                .as_deref()
                .and_then(server)
            {
                Some(url) => url,
                None => return Err(missing),
            },
        };
        Ok(Supervisor::with_identity(
            &url,
            None,
            ca.into(),
            &identity,
            TIMEOUT,
        )?)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// The server's URL in a kubeconfig that this crate wrote.
fn server(kubeconfig: &str) -> Option<String> {
    kubeconfig
        .lines()
        .find_map(|line| line.trim().strip_prefix("server: "))
        .map(str::to_owned)
}
