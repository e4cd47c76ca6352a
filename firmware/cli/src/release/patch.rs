//! Making a patch: what of the new root stands in the old one, wherever it stands there. Blocks of the old one are found in
//! the new one by a hash that rolls from byte to byte, and every find is made as long as it goes.

use std::collections::HashMap;
use std::io::{self, Write};

use fleet_protocol::patch::{MAGIC, Op, WINDOW_LOG};

/// Bytes of a block: what is shorter is not looked for.
const BLOCK: usize = 512;
/// The hash's base, odd and large.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes the patch from `old` to `new`.
pub(super) fn write(old: &[u8], new: &[u8], level: i32, sink: impl Write) -> io::Result<()> {
    let mut encoder = zstd::stream::write::Encoder::new(sink, level)?;
    encoder.window_log(WINDOW_LOG)?;
    encoder.include_checksum(true)?;
    encoder.write_all(&MAGIC)?;
    let known = blocks(old);
    let (mut at, mut said) = (0, 0);
    let mut hash = new.get(..BLOCK).map(hash_of);
    while let Some(now) = hash {
        let found = known.get(&now).and_then(|from| find(old, new, *from, at, said));
        match found {
            Some((from, start, length)) => {
                data(&mut encoder, new, said, start)?;
                Op::Copy { from: number(from), length: number(length) }.write(&mut encoder)?;
                said = start + length;
                at = said;
                hash = new.get(at..at + BLOCK).map(hash_of);
            }
            None => {
                hash = new.get(at).zip(new.get(at + BLOCK)).map(|(out, into)| roll(now, *out, *into));
                at += 1;
            }
        }
    }
    data(&mut encoder, new, said, new.len())?;
    Op::End.write(&mut encoder)?;
    encoder.finish()?.flush()
}

/// The blocks of the old one, by their hashes; of equal ones the first.
fn blocks(old: &[u8]) -> HashMap<u64, usize> {
    let mut known = HashMap::with_capacity(old.len() / BLOCK);
    for (number, block) in old.chunks_exact(BLOCK).enumerate() {
        known.entry(hash_of(block)).or_insert(number * BLOCK);
    }
    known
}

/// A find around the block at `from` and `at`, as far as it goes in both directions, but not into what was said already.
fn find(old: &[u8], new: &[u8], from: usize, at: usize, said: usize) -> Option<(usize, usize, usize)> {
    if old.get(from..from + BLOCK)? != new.get(at..at + BLOCK)? {
        return None;
    }
    let before = new.get(said..at)?.iter().rev().zip(old.get(..from)?.iter().rev()).take_while(|(a, b)| a == b).count();
    let after = same(old.get(from + BLOCK..)?, new.get(at + BLOCK..)?);
    Some((from - before, at - before, before + BLOCK + after))
}

/// How many bytes two texts have in common at their beginning.
fn same(one: &[u8], other: &[u8]) -> usize {
    let whole =
        one.chunks(4096).zip(other.chunks(4096)).take_while(|(a, b)| a == b).map(|(a, _)| a.len()).sum::<usize>();
    let rest = one.iter().skip(whole).zip(other.iter().skip(whole));
    whole + rest.take_while(|(a, b)| a == b).count()
}

fn data(sink: &mut impl Write, new: &[u8], from: usize, to: usize) -> io::Result<()> {
    let Some(bytes) = new.get(from..to).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
    Op::Data { length: number(bytes.len()) }.write(sink)?;
    sink.write_all(bytes)
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn hash_of(block: &[u8]) -> u64 {
    block.iter().fold(0, |hash: u64, byte| hash.wrapping_mul(BASE).wrapping_add(u64::from(*byte) + 1))
}

/// The hash one byte further.
fn roll(hash: u64, out: u8, into: u8) -> u64 {
    let gone = (u64::from(out) + 1).wrapping_mul(HIGHEST);
    hash.wrapping_sub(gone).wrapping_mul(BASE).wrapping_add(u64::from(into) + 1)
}

/// What the first byte of a block is multiplied by.
const HIGHEST: u64 = {
    let (mut power, mut left) = (1_u64, BLOCK - 1);
    while left > 0 {
        power = power.wrapping_mul(BASE);
        left -= 1;
    }
    power
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_rolls_as_if_it_were_made_anew() {
        let bytes: Vec<u8> = (0..3 * BLOCK).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
        let mut hash = hash_of(&bytes[..BLOCK]);
        for at in 0..BLOCK {
            hash = roll(hash, bytes[at], bytes[at + BLOCK]);
            assert_eq!(hash, hash_of(&bytes[at + 1..=at + BLOCK]));
        }
    }

    fn place(number: u64) -> usize {
        usize::try_from(number).unwrap()
    }

    /// The patch, applied in the plainest way.
    fn applied(old: &[u8], patch: &[u8]) -> Vec<u8> {
        let unpacked = zstd::stream::decode_all(patch).unwrap();
        let mut source = unpacked.strip_prefix(&MAGIC).unwrap();
        let mut new = Vec::new();
        loop {
            match Op::read(&mut source).unwrap() {
                Op::End => return new,
                Op::Copy { from, length } => new.extend(&old[place(from)..place(from + length)]),
                Op::Data { length } => {
                    let (bytes, rest) = source.split_at(place(length));
                    new.extend(bytes);
                    source = rest;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_was_moved_cut_and_changed_comes_out_as_the_new_one(
            seed in any::<u64>(),
            parts in proptest::collection::vec((0..20_000usize, 0..5000usize, 0..40usize), 0..12),
        ) {
            let mut state = seed | 1;
            let old: Vec<u8> = (0..20_000).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            }).collect();
            let mut new = Vec::new();
            for (from, length, noise) in parts {
                new.extend(&old[from..(from + length).min(old.len())]);
                new.extend(std::iter::repeat_n(u8::try_from(noise).unwrap(), noise));
            }
            let mut patch = Vec::new();
            write(&old, &new, 1, &mut patch).unwrap();
            prop_assert_eq!(applied(&old, &patch), new);
        }
    }

    #[test]
    fn what_only_moved_costs_next_to_nothing() {
        let old: Vec<u8> = (0..200_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let new = [b"inserted".as_slice(), &old[300_000..], &old[..300_000]].concat();
        let mut patch = Vec::new();
        write(&old, &new, 3, &mut patch).unwrap();
        assert_eq!(applied(&old, &patch), new);
        assert!(patch.len() < 200, "{}", patch.len());
    }
}
