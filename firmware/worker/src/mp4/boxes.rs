//! Finding boxes in bytes from a stranger.

/// A box.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// Where it begins in the bytes that were searched.
    pub(crate) start: usize,
    pub(crate) kind: [u8; 4],
    pub(crate) body: &'a [u8],
    /// All of it.
    pub(crate) whole: &'a [u8],
}

/// The boxes in a piece of file, in order.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    let mut start = 0usize;
    std::iter::from_fn(move || {
        let rest = bytes.get(start..)?;
        let short = usize::try_from(u32_at(rest, 0)?).ok()?;
        let kind = *rest.get(4..)?.first_chunk::<4>()?;
        let (header, length) = match short {
            0 => (8, rest.len()),
            1 => (16, usize::try_from(u64_at(rest, 8)?).ok()?),
            length => (8, length),
        };
        // A box cut off by the end of the file still has a beginning.
        let whole = rest.get(..length.min(rest.len()))?;
        let piece = Piece { start, kind, body: whole.get(header..)?, whole };
        start = start.checked_add(whole.len())?;
        Some(piece)
    })
}

/// The first box of this type.
pub(crate) fn child<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    pieces(bytes).find(|p| p.kind == *kind).map(|p| p.body)
}

/// The first box of the last type in the first of the one before, and so on.
pub(crate) fn path<'a>(bytes: &'a [u8], kinds: &[&[u8; 4]]) -> Option<&'a [u8]> {
    kinds.iter().try_fold(bytes, |inside, kind| child(inside, kind))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}

/// A number of 64 bits in version 1 of a box, of 32 in version 0.
pub(crate) fn wide_at(bytes: &[u8], at: usize, version: u8) -> Option<u64> {
    if version == 1 { u64_at(bytes, at) } else { u32_at(bytes, at).map(u64::from) }
}
