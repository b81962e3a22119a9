//! The state file, in K3s's form: `{"ServerURL": …, "ServerAddresses": […], "Listener": null}`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// More is not a list of servers.
const SIZE_LIMIT_BYTES: u64 = 256 * 1024;

/// Why the state file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StateError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct State {
    #[serde(rename = "ServerURL")]
    server_url: String,
    #[serde(rename = "ServerAddresses")]
    server_addresses: Option<Vec<String>>,
    #[serde(rename = "Listener", default)]
    listener: Option<serde_json::Value>,
}

/// The addresses recorded for `server_url`; none when the file is for another URL or absent.
pub(crate) fn load(path: &Path, server_url: &str) -> Result<Vec<String>, StateError> {
    let fail = |source| StateError {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > SIZE_LIMIT_BYTES => {
            return Err(fail(io::Error::new(
                io::ErrorKind::InvalidData,
                "file is too large",
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    }
    let text = fs::read(path).map_err(fail)?;
    let state: State = serde_json::from_slice(&text).map_err(|error| fail(error.into()))?;
    if state.server_url.trim_end_matches('/') != server_url.trim_end_matches('/') {
        return Ok(Vec::new());
    }
    let addresses = state.server_addresses.unwrap_or_default();
    Ok(addresses
        .into_iter()
        .filter(|address| plausible(address))
        .collect())
}

/// Replaces the file atomically.
pub(super) fn store(path: &Path, server_url: &str, addresses: &[String]) -> Result<(), StateError> {
    let fail = |source| StateError {
        path: path.to_owned(),
        source,
    };
    let state = State {
        server_url: server_url.to_owned(),
        server_addresses: Some(addresses.to_vec()),
        listener: None,
    };
    let text = serde_json::to_vec(&state).map_err(|error| fail(error.into()))?;
    crate::files::write_atomically(path, &text).map_err(fail)
}

/// `host:port` with a port, and nothing that could be mistaken for something else.
fn plausible(address: &str) -> bool {
    address.len() <= 300
        && address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && port.parse::<u16>().is_ok()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_only_for_the_same_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/lb.json");
        let addresses = vec!["10.0.0.1:6443".to_owned(), "[fd00::1]:6443".to_owned()];
        store(&path, "https://10.0.0.1:6443", &addresses).unwrap();
        assert_eq!(load(&path, "https://10.0.0.1:6443").unwrap(), addresses);
        assert_eq!(load(&path, "https://10.0.0.1:6443/").unwrap(), addresses);
        assert!(load(&path, "https://10.0.0.9:6443").unwrap().is_empty());
    }

    #[test]
    fn absent_is_empty_and_damaged_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.json");
        assert!(load(&path, "https://a").unwrap().is_empty());
        fs::write(&path, "{\"ServerURL\":").unwrap();
        assert!(load(&path, "https://a").is_err());
        fs::write(&path, r#"{"ServerURL":"https://a","ServerAddresses":null}"#).unwrap();
        assert!(load(&path, "https://a").unwrap().is_empty());
        fs::write(
            &path,
            r#"{"ServerURL":"https://a","ServerAddresses":["nonsense","a b:1","h:9"]}"#,
        )
        .unwrap();
        assert_eq!(load(&path, "https://a").unwrap(), ["h:9"]);
    }
}
