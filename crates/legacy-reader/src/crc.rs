//! The checksum of raft's files: polynomial 0x04C11DB7, most significant bit first, start value
//! 0, no reflection, no final inversion. Not the CRC-32 of zlib.

/// `TABLES[k][b]` is the effect of byte `b` with `k` zero bytes behind it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 0x8000_0000 != 0 {
                (value << 1) ^ 0x04C1_1DB7
            } else {
                value << 1
            };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before << 8) ^ tables[0][(before >> 24) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Continues a checksum over more bytes; start with 0.
pub(crate) fn update(mut crc: u32, bytes: &[u8]) -> u32 {
    let at = |table: usize, byte: u32| TABLES[table][(byte & 0xFF) as usize];
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let head = crc ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
        crc = at(7, head >> 24)
            ^ at(6, head >> 16)
            ^ at(5, head >> 8)
            ^ at(4, head)
            ^ at(3, word[4].into())
            ^ at(2, word[5].into())
            ^ at(1, word[6].into())
            ^ at(0, word[7].into());
    }
    for &byte in words.remainder() {
        crc = (crc << 8) ^ at(0, (crc >> 24) ^ u32::from(byte));
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value_however_it_is_cut() {
        let text = b"123456789";
        assert_eq!(update(0, text), 0x89A1_897F);
        let long: Vec<u8> = (0..100u8).collect();
        for cut in 0..long.len() {
            let (head, tail) = long.split_at(cut);
            assert_eq!(update(update(0, head), tail), update(0, &long));
        }
    }
}
