//! One input from others.

use trivet_etcd_diff::Dice;

/// Longest input that is made.
const LONGEST: usize = 1 << 20;

/// A real input, changed in a few places; now and then as it is.
#[must_use]
pub fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = dice.pick(corpus);
    for _ in 0..dice.below(6) {
        change(dice, &mut input, corpus);
    }
    input.truncate(LONGEST);
    input
}

fn change(dice: &mut Dice, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = dice.below(input.len() + 1);
    let rest = input.len() - at;
    match dice.below(9) {
        0 => input.truncate(at),
        1 if rest > 0 => input[at] ^= 1 << dice.below(8),
        2 if rest > 0 => input[at] = dice.number() as u8,
        3 => {
            // Numbers at the edges, in both orders of bytes: lengths and offsets.
            let number = dice.pick(&[
                0,
                1,
                0x7f,
                0x80,
                0xffff,
                0x7fff_ffff,
                u64::from(u32::MAX),
                u64::MAX,
            ]);
            let width = dice.pick(&[1, 2, 4, 8]).min(rest);
            let bytes = match dice.percent(50) {
                true => number.to_le_bytes(),
                false => number.to_be_bytes(),
            };
            input[at..at + width].copy_from_slice(&bytes[..width]);
        }
        4 => {
            let end = at + dice.below(rest + 1).min(64);
            input.drain(at..end);
        }
        5 => {
            let end = at + dice.below(rest + 1).min(64);
            let part = input[at..end].to_vec();
            let times = dice.pick(&[1, 2, 40]);
            input.splice(at..at, part.repeat(times));
        }
        6 => {
            let other = dice.pick(corpus);
            let from = dice.below(other.len() + 1);
            input.splice(at.., other[from..].iter().copied());
        }
        7 => {
            let words: [&[u8]; 10] = [
                b"\0",
                b"\"",
                b"{",
                b"[",
                b"\n",
                b"\xff\xff\xff\xff\x0f",
                b"&a *a",
                b": ",
                b"-9223372036854775808",
                b"\xed\xa0\x80",
            ];
            let word = dice.pick(&words);
            let times = dice.pick(&[1, 1, 300]);
            input.splice(at..at, word.repeat(times));
        }
        _ => {
            let noise: Vec<u8> = (0..dice.below(16)).map(|_| dice.number() as u8).collect();
            input.splice(at..at, noise);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_inputs_and_they_differ() {
        let corpus = [b"some real input".to_vec(), vec![], vec![7; 300]];
        let inputs = |seed| {
            let mut dice = Dice::new(seed);
            (0..500)
                .map(|_| mutate(&mut dice, &corpus))
                .collect::<Vec<_>>()
        };
        let (first, again, other) = (inputs(1), inputs(1), inputs(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
        let different: std::collections::BTreeSet<_> = first.iter().collect();
        assert!(different.len() > 250, "{}", different.len());
        assert!(first.iter().all(|input| input.len() <= LONGEST));
    }
}
