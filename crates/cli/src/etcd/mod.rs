//! `trivet etcd`: the store alone, with etcd's flags, environment, log lines and exit codes.
//!
//! A link to the program that is named `etcd` behaves so as well.

mod file;
mod flags;
mod limits;
mod log;
mod notify;
mod security;
mod settings;
mod table;

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_store_etcd::{
    ClientListener, EtcdStore, Manner, PeerSettings, REMOVED, SERVER_VERSION, Serves, Start,
    StoreConfig, StrictReconfig, open,
};

use crate::failure::Failure;
use crate::signals;
use flags::Given;
use settings::{Settings, Url};

/// Where the store lies below `--data-dir`; etcd's own files lie in `member`.
const DIR: &str = "trivet";

/// How often a member that cannot serve yet says so.
const SPEAK: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs with the arguments behind the name of the program or of the subcommand.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), Failure> {
    let words: Vec<String> = arguments
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.first().map(String::as_str) {
        Some("help") => {
            print!("{}", flags::usage());
            return Ok(());
        }
        Some(word @ ("gateway" | "grpc-proxy")) => {
            return Err(Failure::usage(format!("`etcd {word}` is not available")));
        }
        _ => {}
    }
    let given = flags::parse(&words).map_err(wrong_usage)?;
    if given.on("version", false) {
        // What comes first is read by programs.
        println!(
            "etcd Version: {SERVER_VERSION}\nProvided by: trivet {}",
            env!("CARGO_PKG_VERSION")
        );
        return Ok(());
    }
    if given.on("help", false) || given.on("h", false) {
        print!("{}", flags::usage());
        return Ok(());
    }
    let (given, notes) = complete(given)?;
    log::install(&given).map_err(Failure::usage)?;
    for note in notes {
        tracing::warn!(note, "a setting is not used");
    }
    let ignored = settings::without_effect(&given).map_err(failed)?;
    if !ignored.is_empty() {
        tracing::warn!(
            flags = ignored.join(","),
            "these flags are accepted for compatibility and have no effect"
        );
    }
    let settings = Settings::new(&given).map_err(failed)?;
    let config = store_config(&given, &settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)))
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    runtime.block_on(serve(config))
}

/// Wrong flags: the message, then how it is meant, as Go's programs do it.
fn wrong_usage(message: String) -> Failure {
    eprintln!("{message}\n{}", flags::usage());
    Failure::usage(message)
}

fn failed(message: String) -> Failure {
    Failure::other(anyhow::Error::msg(message))
}

/// Flags and environment, or the settings file alone. The second part is what is not used.
fn complete(mut given: Given) -> Result<(Given, Vec<String>), Failure> {
    let variables = || {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
    };
    let from_environment = std::env::var("ETCD_CONFIG_FILE").ok();
    let path = given
        .get("config-file")
        .map(str::to_owned)
        .or(from_environment)
        .filter(|path| !path.is_empty());
    match path {
        Some(path) => {
            let others = given.iter().any(|(flag, _)| flag.name != "config-file");
            let (given, unknown) = file::read(Path::new(&path)).map_err(failed)?;
            let mut notes: Vec<String> = unknown
                .iter()
                .map(|key| format!("{path}: no setting is named {key:?}"))
                .collect();
            if others {
                notes.push(
                    "flags and environment variables are not used beside a settings file"
                        .to_owned(),
                );
            }
            Ok((given, notes))
        }
        None => {
            let notes = flags::from_environment(&mut given, variables()).map_err(failed)?;
            Ok((given, notes))
        }
    }
}

fn store_config(given: &Given, settings: &Settings) -> Result<StoreConfig, Failure> {
    let data_dir = &settings.data_dir;
    refuse_foreign(data_dir)?;
    let dir = data_dir.join(DIR);
    if !dir.join("FORMAT").exists() {
        settings.check_founding().map_err(failed)?;
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .map_err(|error| {
            failed(format!(
                "cannot make the data directory {}: {error}",
                data_dir.display()
            ))
        })?;
    let clients_tls = security::clients(given, settings).map_err(failed)?;
    let metrics_tls = security::metrics(given, settings).map_err(failed)?;
    let security = security::peers(given, settings).map_err(failed)?;
    let mut config = StoreConfig::single(Env::real(), dir);
    config.member_name.clone_from(&settings.name);
    let bind = |url: &Url| url.bind().map_err(failed);
    let listener = |url: &Url, serves| -> Result<ClientListener, Failure> {
        Ok(ClientListener {
            serves,
            ..ClientListener::new(bind(url)?, clients_tls.clone().filter(|_| url.tls))
        })
    };
    // Once HTTP has addresses of its own, the others are for gRPC.
    let serves = if settings.listen_client_http.is_empty() {
        Serves::All
    } else {
        Serves::Grpc
    };
    for url in &settings.listen_client {
        config.clients.push(listener(url, serves)?);
    }
    for url in &settings.listen_client_http {
        config.clients.push(listener(url, Serves::Http)?);
    }
    for url in &settings.listen_metrics {
        let tls = metrics_tls.clone().filter(|_| url.tls);
        config
            .metrics_listen
            .push(ClientListener::new(bind(url)?, tls));
    }
    let texts = |urls: &[Url]| -> Vec<String> { urls.iter().map(Url::to_string).collect() };
    config.client_urls = texts(&settings.advertise_client);
    config.peers = Some(PeerSettings {
        listen: settings
            .listen_peer
            .iter()
            .map(bind)
            .collect::<Result<_, _>>()?,
        url: texts(&settings.advertise_peer).join(","),
        security,
    });
    // Whoever writes http:// means it, as with etcd.
    config.plaintext_anywhere = true;
    config.manner = Manner::Standalone;
    config.strict_reconfig = settings.strict_reconfig.then(StrictReconfig::default);
    config.force_new_cluster = settings.force_new_cluster;
    config.heartbeat = settings.heartbeat;
    config.election_timeout = settings.election_timeout;
    config.watch_progress = settings.watch_progress;
    config.auth = settings.auth.clone();
    limits::apply(given, &mut config).map_err(failed)?;
    let members = settings.initial_cluster.clone();
    config.start = if settings.existing {
        Start::Existing { members }
    } else {
        Start::Static {
            members,
            token: settings.token.clone(),
        }
    };
    Ok(config)
}

/// A directory with a genuine etcd's data is not taken over in passing.
fn refuse_foreign(data_dir: &Path) -> Result<(), Failure> {
    let member = data_dir.join("member");
    let genuine = ["wal", "snap"]
        .iter()
        .any(|name| member.join(name).exists());
    if !genuine {
        return Ok(());
    }
    Err(Failure::foreign(format!(
        "{} holds the data of an etcd, which this program does not write. Bring it over with \
         `trivet datastore import`, or choose another --data-dir",
        member.display()
    )))
}

async fn serve(config: StoreConfig) -> Result<(), Failure> {
    let stop = signals::stop_token().map_err(Failure::other)?;
    let (dir, name): (PathBuf, String) = (config.dir.clone(), config.member_name.clone());
    tracing::info!(
        name,
        data_dir = %dir.display(),
        version = SERVER_VERSION,
        "starting an etcd-compatible server"
    );
    let opening = patient(open(config), "starting");
    let store = tokio::select! {
        opened = opening => opened.map_err(Failure::other)?,
        () = stop.cancelled() => return Ok(()),
    };
    let serving = patient(store.serving(), "waiting for a quorum of the members");
    tokio::select! {
        true = serving => {
            // Programs wait for this very line.
            tracing::info!(addresses = ?store.client_addresses(), "ready to serve client requests");
            notify::ready();
        }
        () = stop.cancelled() => {}
        reason = store.stopped() => return ended(&store, reason).await,
    }
    tokio::select! {
        () = stop.cancelled() => {
            store.shutdown().await;
            tracing::info!("stopped");
            Ok(())
        }
        reason = store.stopped() => ended(&store, reason).await,
    }
}

/// The member ended by itself. Having been removed is a proper end.
async fn ended(store: &EtcdStore, reason: Option<String>) -> Result<(), Failure> {
    store.shutdown().await;
    match reason {
        None => Ok(()),
        Some(reason) if reason.contains(REMOVED) => {
            tracing::warn!(reason, "the data directory of this member can be deleted");
            Ok(())
        }
        Some(reason) => Err(failed(reason)),
    }
}

/// Waits, and says now and then for what.
async fn patient<T>(work: impl Future<Output = T>, what: &str) -> T {
    let mut work = std::pin::pin!(work);
    let start = tokio::time::Instant::now();
    loop {
        match tokio::time::timeout(SPEAK, &mut work).await {
            Ok(done) => return done,
            Err(_) => tracing::warn!(since_s = start.elapsed().as_secs(), "still {what}"),
        }
    }
}
