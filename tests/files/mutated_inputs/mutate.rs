//! Mutations of bytes, each a pure function of (seed, number).

use psmt_fast::rng::{Domain, Key, Stream};

/// Numbers at which sizes and counters overflow.
const NUMBERS: [u64; 10] =
    [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32, i64::MAX as u64, u64::MAX, 1 << 61];

/// The same as text, and what else stands where a number should.
const WORDS: [&str; 14] = [
    "0",
    "-1",
    "1e400",
    "NaN",
    "1e12",
    "18446744073709551615",
    "9223372036854775808",
    "4294967296",
    "null",
    "\"\"",
    "[]",
    "{}",
    "true",
    "\u{1b}[31m",
];

/// `bytes` with one to four changes, some of them parts of `other`.
pub fn mutated(bytes: &[u8], other: &[u8], number: u64) -> Vec<u8> {
    let mut rng = Key::new(1, Domain::Bench, number).stream();
    let mut out = bytes.to_vec();
    for _ in 0..1 + rng.below(4) {
        change(&mut out, other, &mut rng);
    }
    out
}

fn change(out: &mut Vec<u8>, other: &[u8], rng: &mut Stream) {
    if out.is_empty() {
        out.extend(other.iter().take(1 + rng.below(64)));
        return;
    }
    // Headers decide the most, and stand first or last.
    let at = match rng.below(3) {
        0 => rng.below(out.len().min(256)),
        1 => out.len() - 1 - rng.below(out.len().min(256)),
        _ => rng.below(out.len()),
    };
    let end = (at + 1 + rng.below(32)).min(out.len());
    match rng.below(9) {
        0 => out[at] ^= 1 << rng.below(8),
        1 => out[at] = [0, 0xFF, 0x7F, 0x80, b'"', b'\n', b' '][rng.below(7)],
        2 => out.truncate(at),
        3 => drop(out.drain(at..end)),
        4 => {
            let copy = out[at..end].to_vec();
            out.splice(at..at, copy);
        }
        5 => {
            let from = rng.below(other.len());
            let to = (from + 1 + rng.below(64)).min(other.len());
            out.splice(at..end, other[from..to].iter().copied());
        }
        6 => {
            let number = NUMBERS[rng.below(NUMBERS.len())];
            let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
            let width = [1, 2, 4, 8][rng.below(4)];
            let bytes = if rng.chance(0.5) { &little[..width] } else { &big[8 - width..] };
            out.iter_mut().skip(at).zip(bytes).for_each(|(o, b)| *o = *b);
        }
        7 => {
            let word = WORDS[rng.below(WORDS.len())];
            out.splice(at..at, word.bytes());
        }
        // The number written next gets another value.
        _ => {
            let Some(start) = (at..out.len()).find(|&i| out[i].is_ascii_digit()) else { return };
            let end = (start..out.len()).find(|&i| !out[i].is_ascii_digit()).unwrap_or(out.len());
            let word = WORDS[rng.below(WORDS.len())];
            out.splice(start..end, word.bytes());
        }
    }
}
