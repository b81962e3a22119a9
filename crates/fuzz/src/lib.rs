//! Real inputs, mutated, for everything that reads from network or disk.
//!
//! **Not guided by coverage**: real inputs are cut, spliced, overwritten and repeated at random.
//! That needs no nightly compiler and repeats exactly from a seed, and it finds what is near to
//! real inputs; it does not work its way into branches that none of them reaches.
//!
//! A finding is a panic, an input that takes longer than [`SLOW`], or one that makes the process
//! grow by more than [`LARGE_KIB`].
//!
//! - [`targets()`]: what is fed, by name, each with its real inputs.
//! - [`run()`]: mutates and feeds.
//!
//! **Invariant:** never a dependency of shipped code.

mod directories;
mod messages;
mod mutate;
mod run;
mod texts;

pub use mutate::mutate;
pub use run::{Finding, LARGE_KIB, Report, SLOW, run};

/// Reads one input; what it makes of it does not matter.
pub type Reader = Box<dyn FnMut(&[u8])>;

/// Something that reads.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Real inputs.
    pub corpus: Vec<Vec<u8>>,
    /// Feeds one.
    pub read: Reader,
}

/// Everything that is fed. Servers are started only for the targets that are asked for.
pub fn targets(only: Option<&str>) -> anyhow::Result<Vec<Target>> {
    type Make = fn() -> anyhow::Result<Target>;
    let all: [(&str, Make); 9] = [
        ("cloud-init", texts::cloud_init),
        ("tokens", texts::tokens),
        ("kubernetes-bodies", texts::bodies),
        ("selectors", texts::selectors),
        ("commands", messages::commands),
        ("client-port", messages::client_port),
        ("store-directory", directories::store),
        ("dqlite", directories::dqlite),
        ("sqlite", directories::sqlite),
    ];
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name))
        .collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "no such target; there are {}",
        all.map(|(name, _)| name).join(", ")
    );
    chosen.into_iter().map(|(_, make)| make()).collect()
}
