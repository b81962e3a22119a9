//! Where bytes stand (`docs/formats/bbolt.md`). All numbers are little-endian.

/// Pages that are written here have this size; files with others are read too.
pub const PAGE_BYTES: usize = 4096;
/// No key is longer.
pub const MAX_KEY_BYTES: usize = 32 * 1024;

/// id u64, flags u16, count u16, overflow u32.
pub(crate) const PAGE_HEADER: usize = 16;
/// Leaf: flags u32, position u32, key u32, value u32. Branch: position u32, key u32, page u64.
pub(crate) const ELEMENT: usize = 16;
/// root u64, sequence u64.
pub(crate) const BUCKET_HEADER: usize = 16;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;
/// In an element of a leaf: the value is a bucket.
pub(crate) const ELEMENT_BUCKET: u32 = 0x01;

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;
/// Everything of a meta record before its checksum.
const META_BODY: usize = 56;
pub(crate) const META: usize = META_BODY + 8;

pub(crate) const FREELIST_PAGE: u64 = 2;
/// Two meta pages and the free list come before the first tree.
pub(crate) const FIRST_TREE_PAGE: u64 = 3;

/// The head of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl PageHeader {
    pub(crate) fn encode(self) -> [u8; PAGE_HEADER] {
        let mut bytes = [0; PAGE_HEADER];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; PAGE_HEADER]) -> Self {
        Self {
            id: u64_at(bytes, 0),
            flags: u16::from_le_bytes([bytes[8], bytes[9]]),
            count: u16::from_le_bytes([bytes[10], bytes[11]]),
            overflow: u32_at(bytes, 12),
        }
    }
}

/// The root of the file. There are two; the valid one with the higher transaction counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_bytes: u32,
    /// Root page of the tree of buckets.
    pub(crate) root: u64,
    /// One past the last page in use.
    pub(crate) pages: u64,
    pub(crate) transaction: u64,
}

impl Meta {
    pub(crate) fn encode(self) -> [u8; META] {
        let mut bytes = [0; META];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        // 12..16: flags, unused. 24..32: sequence of the tree of buckets, 0.
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&FREELIST_PAGE.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let sum = fnv64a(&bytes[..META_BODY]);
        bytes[META_BODY..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a record; the error says why it does not count.
    pub(crate) fn decode(bytes: &[u8; META]) -> Result<Self, &'static str> {
        if u32_at(bytes, 0) != MAGIC {
            return Err("it has no bbolt magic number");
        }
        if u32_at(bytes, 4) != VERSION {
            return Err("it has another version of the format");
        }
        if u64_at(bytes, META_BODY) != fnv64a(&bytes[..META_BODY]) {
            return Err("its checksum is wrong");
        }
        Ok(Self {
            page_bytes: u32_at(bytes, 8),
            root: u64_at(bytes, 16),
            pages: u64_at(bytes, 40),
            transaction: u64_at(bytes, 48),
        })
    }
}

fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The caller has made sure that four bytes are there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The caller has made sure that eight bytes are there.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        // The published vectors.
        assert_eq!(fnv64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn any_flipped_bit_of_a_meta_record_is_noticed() {
        let good = Meta {
            page_bytes: 4096,
            root: 77,
            pages: 78,
            transaction: 5,
        };
        let bytes = good.encode();
        assert_eq!(Meta::decode(&bytes), Ok(good));
        for bit in 0..META * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
