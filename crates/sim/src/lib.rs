//! A simulated world for tests: a clock that moves by hand, seeded randomness, and a disk that
//! crashes, fails and forgets on command.
//!
//! **Invariant:** development only; no shipped crate depends on this one.
//!
//! # Faults of [`SimDisk`] that storage code must survive
//! | fault | how |
//! |---|---|
//! | crash at I/O operation N | [`SimDisk::crash_at`]; that call and all later ones fail |
//! | a killed process: the page cache stays, unsynced data is still unsynced | [`SimDisk::restart_process`] |
//! | any subset of the unsynced writes is on disk after a crash, in units of 512 bytes, also an older one without a newer one | [`SimDisk::crash_image`] |
//! | the length of a file after a crash is any of those it had since its last sync | same |
//! | directory changes (create, mkdir, rename, remove) that were not followed by `sync_dir` are lost, or not, each on its own; a rename is atomic | same |
//! | a failed `sync_data`: some of the data reached the disk, the rest never will, yet reads go on showing it and the next sync succeeds | [`SimDisk::fail_sync_at`] |
//! | a full disk: the write stops half way | [`SimDisk::set_space_left`] |
//! | durable bytes change while nobody looks | [`SimDisk::flip_bit`], [`SimDisk::overwrite`] |
//!
//! A sync of a file does not make its directory entry durable, and `sync_dir` does not make
//! the data of its files durable.
//!
//! # Faults that are not modelled, because no program alone could survive them
//! A sync that lies; a write that lands in another place or garbles the neighbouring sectors;
//! a sector that is neither old nor new after a crash; loss of a whole synced file; a disk
//! that returns an old version of synced data.

mod clock;
mod disk;
mod inode;
mod names;
mod rng;

pub use clock::SimClock;
pub use disk::SimDisk;
pub use inode::SECTOR_BYTES;
pub use rng::SimRng;
