//! Getting over damage.
//!
//! What a member owes to the others lies in its log: entries it acknowledged, votes it gave. So
//! there are two kinds of damage.
//!
//! - **The state is damaged, the log is whole.** The state is only the sum of committed entries.
//!   It is made again from the log, or fetched from any other member; identity, log and vote
//!   stay, and the member goes on voting and acknowledging as the one that it is.
//! - **The log is damaged or gone.** The member cannot know what it promised, so it must never
//!   speak under its identity again. Once a quorum of the *others* is there to remove that
//!   identity, the damaged files are set aside and the server joins as a new member: a learner
//!   first, a voter when it has everything.
//!
//! A member without peers can do neither, unless its log is complete: it refuses to start and
//! says what is damaged. `docs/healing.md` has the argument in full.

use std::sync::Arc;
use std::time::Duration;

use trivet_datastore::{Effect, Error, Result};
use trivet_raft_node::{self as raft, LogFacts, Peer, RaftNode, StartMode};

use crate::aside;
use crate::backend::NAME;
use crate::bring_up::{Fault, Place};
use crate::config::{Manner, StoreConfig};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::format::{self, Format};
use crate::open::{RAFT_DIR, STATE_DIR, io};
use crate::state::{Alarm, AlarmMember};

/// How long an opening waits for the others before it says that it does, and tries again.
const AGREEMENT: Duration = Duration::from_secs(10);

/// Pause before another attempt to fetch the state.
const RETRY: Duration = Duration::from_secs(1);

/// What a server that is alone can do.
fn alone(config: &StoreConfig, damage: &str) -> Error {
    let dir = config.dir.display().to_string();
    let data_dir = dir.strip_suffix("/server/db/trivet").unwrap_or(&dir);
    Error::Corrupt(format!(
        "{damage}; no other member has a copy. `trivet datastore repair --data-dir {data_dir}` says what can be saved and what would be lost, and changes nothing without --yes; or restore a snapshot"
    ))
}

/// Refuses a directory that belongs to another server of the cluster.
pub(crate) fn check_place(
    config: &StoreConfig,
    url: &str,
    format: &Format,
    members: &[Peer],
) -> Result<()> {
    if config.manner != Manner::Embedded {
        return Ok(());
    }
    let own = members.iter().find(|peer| peer.id == format.member_id);
    let there = members.iter().find(|peer| peer.peer_url == url);
    match (own, there) {
        (Some(own), Some(there)) if own.id != there.id => Err(Error::Invalid(format!(
            "{} holds the data of {} at {}, but this server has the address of {} ({url}): the directories of two servers were swapped or copied. Put each back where it belongs",
            config.dir.display(),
            own.name,
            own.peer_url,
            there.name,
        ))),
        _ => Ok(()),
    }
}

/// A member that was ready has a log.
pub(crate) fn log_is_there(config: &StoreConfig) -> Result<(), Fault> {
    let disk = &*config.env.disk;
    let dir = config.dir.join(RAFT_DIR).join("log");
    let there = || -> std::io::Result<bool> {
        Ok(disk.exists(&dir)?
            && disk
                .read_dir(&dir)?
                .iter()
                .any(|name| name.ends_with(".wal")))
    };
    if there().map_err(|error| io(&error))? {
        return Ok(());
    }
    Err(Fault::Log(raft::Error::Damaged {
        file: dir,
        offset: 0,
        what: "the log is missing".to_owned(),
    }))
}

async fn inspect(config: &StoreConfig) -> Result<LogFacts, Fault> {
    match RaftNode::inspect(&config.env, &config.dir.join(RAFT_DIR)).await {
        Ok(Some(facts)) => Ok(facts),
        Ok(None) => Err(Fault::Log(raft::Error::Damaged {
            file: config.dir.join(RAFT_DIR),
            offset: 0,
            what: "the log is missing".to_owned(),
        })),
        Err(error @ raft::Error::Damaged { .. }) => Err(Fault::Log(error)),
        Err(error) => Err(Fault::Other(Failure::Raft(error).into())),
    }
}

/// Whether a damaged state may be moved out of the way: the log has all of it, or there are
/// members to fetch it from.
pub(crate) async fn state_can_be_had_again(
    config: &StoreConfig,
    format: &Format,
    damage: &str,
) -> Result<(), Fault> {
    let facts = inspect(config).await?;
    let others = facts.members.iter().any(|peer| peer.id != format.member_id);
    if facts.purged.index == 0 {
        tracing::error!(
            damage,
            "the state is damaged; it is made again from the log"
        );
        return Ok(());
    }
    if others {
        tracing::error!(
            damage,
            "the state is damaged; it is fetched from another member"
        );
        return Ok(());
    }
    Err(Fault::Other(alone(config, damage)))
}

/// Reads `FORMAT`. One that is damaged is written again from what the log says about its member.
pub(crate) async fn load_format(config: &StoreConfig) -> Result<Option<Format>> {
    let disk = &*config.env.disk;
    let damage = match Format::load(disk, &config.dir) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => error,
        loaded => return loaded.map_err(|error| io(&error)),
    };
    // A newer program's file is not damaged, and nothing may be guessed about it.
    let text = damage.to_string();
    if text.contains("this program reads version") {
        return Err(io(&damage));
    }
    let Ok(facts) = inspect(config).await else {
        return Err(io(&damage));
    };
    tracing::error!(%damage, "written again from what the log says");
    aside::set_aside(disk, &config.dir.join(format::FILE)).map_err(|error| io(&error))?;
    let format = Format {
        backend: NAME.to_owned(),
        cluster_id: facts.cluster_id,
        member_id: facts.member_id,
        ready: facts.joined,
        imported_from: None,
        replaces: None,
    };
    format
        .store(disk, &config.dir)
        .map_err(|error| io(&error))?;
    Ok(Some(format))
}

/// How a member starts that takes the place of `old`.
pub(crate) fn replacement(format: &Format, old: u64, members: &[Peer]) -> Result<StartMode> {
    let peer_urls: Vec<String> = members
        .iter()
        .filter(|peer| peer.id != old && peer.id != format.member_id)
        .map(|peer| peer.peer_url.clone())
        .collect();
    if peer_urls.is_empty() {
        return Err(Error::Corrupt(format!(
            "this member is to take the place of member {old:x}, whose log was lost, but the list of members is lost too: remove member {old:x} from the cluster and join with an empty directory"
        )));
    }
    Ok(StartMode::Replace { old, peer_urls })
}

/// Gives up an identity whose log is lost. Nothing on disk changes before the others have agreed.
/// Every step can be taken again after a crash: a ready directory without a log leads back here.
pub(crate) async fn become_another(
    config: &StoreConfig,
    place: &Place<'_>,
    format: &Format,
    members: &[Peer],
    damage: &raft::Error,
) -> Result<Format> {
    let old = format.member_id;
    let successor = Format {
        member_id: config.env.rng.next_u64().max(1),
        ready: false,
        replaces: Some(old),
        ..format.clone()
    };
    let others = members.iter().any(|peer| peer.id != old);
    if !others {
        return Err(alone(config, &damage.to_string()));
    }
    let StartMode::Replace { peer_urls, .. } = replacement(&successor, old, members)? else {
        return Err(alone(config, &damage.to_string()));
    };
    tracing::error!(
        %damage,
        member = format_args!("{old:x}"),
        "the log is damaged: this member must not vote any more; asking the others to replace it"
    );
    let agreed = async {
        match (
            place.bench,
            place.node(config, &successor, StartMode::Resume),
        ) {
            (Some(bench), _) => {
                let parts = place.parts(config, bench, &successor, StartMode::Resume);
                raft::testing::replaceable(&parts, &bench.network, old, &peer_urls).await
            }
            (None, Some(node)) => RaftNode::replaceable(&node, old, &peer_urls).await,
            (None, None) => Err(raft::Error::Refused("there is no peer address".to_owned())),
        }
    };
    match tokio::time::timeout(AGREEMENT, agreed).await {
        Ok(agreed) => agreed.map_err(Failure::Raft)?,
        Err(_) => {
            return Err(Error::Unavailable {
                reason: format!(
                    "{damage}; waiting for a quorum of the other members, which has to replace this one"
                ),
                retry_after: None,
                effect: Effect::None,
            });
        }
    }
    let disk = &*config.env.disk;
    for dir in [RAFT_DIR, STATE_DIR] {
        aside::set_aside(disk, &config.dir.join(dir)).map_err(|error| io(&error))?;
    }
    successor
        .store(disk, &config.dir)
        .map_err(|error| io(&error))?;
    Ok(successor)
}

/// Heals what shows while the member runs: values that do not read back, and a state that the
/// leader found to differ from a majority's.
pub(crate) async fn follow(engine: Arc<Engine>) {
    let shared = &engine.shared;
    let (mut damage, mut alarms) = (shared.damage_notify(), shared.alarms_notify());
    let mut replaced_for_alarm = false;
    let mut told = false;
    loop {
        let own = AlarmMember {
            alarm: Alarm::Corrupt,
            member: engine.member_id,
        };
        let flagged = alarms.borrow_and_update().contains(own);
        replaced_for_alarm &= flagged;
        let damaged = *damage.borrow_and_update() > 0;
        let differs = flagged && !replaced_for_alarm;
        let sources = sources(&engine);
        if (damaged || differs) && !sources.is_empty() {
            if differs {
                tracing::error!("this member's state differs from the others'; fetching theirs");
                shared.keep_replaced();
            } else {
                tracing::error!("this member's state is damaged; fetching another member's");
            }
            let fetched = tokio::select! {
                () = engine.stop.cancelled() => return,
                fetched = engine.node.resync(&sources) => fetched,
            };
            match fetched {
                Ok(()) => {
                    replaced_for_alarm = flagged;
                    continue;
                }
                Err(error) => tracing::error!(%error, "the state was not replaced"),
            }
        } else if damaged && !told {
            told = true;
            tracing::error!(
                "no other member has a copy: stop the server and run `trivet datastore repair`"
            );
        }
        tokio::select! {
            () = engine.stop.cancelled() => return,
            _ = damage.changed() => {}
            _ = alarms.changed() => {}
            () = tokio::time::sleep(RETRY), if (damaged || differs) && !sources.is_empty() => {}
        }
    }
}

/// Members whose state nobody doubts.
fn sources(engine: &Engine) -> Vec<u64> {
    let alarms = engine.shared.alarms();
    let doubted = |member| {
        alarms.contains(AlarmMember {
            alarm: Alarm::Corrupt,
            member,
        })
    };
    let peers = engine.node.status().peers.into_iter();
    peers
        .map(|status| status.peer.id)
        .filter(|id| *id != engine.member_id && !doubted(*id))
        .collect()
}
