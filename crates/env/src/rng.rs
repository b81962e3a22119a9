//! Randomness.

/// A source of random bytes.
pub trait Rng: Send + Sync + 'static {
    /// Fills `buffer` with random bytes. The real source is fit for secrets.
    fn fill(&self, buffer: &mut [u8]);

    /// A uniformly distributed 64-bit number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The operating system's random source.
#[derive(Debug, Clone, Copy)]
pub struct RealRng;

impl Rng for RealRng {
    fn fill(&self, buffer: &mut [u8]) {
        // A system without a random source cannot make keys; there is nothing to go on with.
        getrandom::fill(buffer).expect("the operating system supplies random bytes");
    }
}
