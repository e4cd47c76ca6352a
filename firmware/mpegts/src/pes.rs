//! Packetised elementary streams: time stamps around pieces of a track.
use crate::clock::Ticks;

/// The header of one packet, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stream_id: u8,
    /// Raw 33 bits.
    pub(crate) pts: Option<u64>,
    /// Raw 33 bits.
    pub(crate) dts: Option<u64>,
    /// Bytes before the payload.
    pub(crate) length: usize,
    /// Bytes of payload, when the packet says so.
    pub(crate) payload: Option<usize>,
}

/// Reads a header; `None` when this is none.
pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
    let &[0, 0, 1, stream_id, l1, l2, marker, flags, extra] = bytes.first_chunk::<9>()? else { return None };
    if marker & 0xc0 != 0x80 || matches!(stream_id, 0xbc | 0xbe | 0xbf | 0xf0 | 0xf1 | 0xf2 | 0xf8 | 0xff) {
        return None;
    }
    let length = 9 + usize::from(extra);
    let has = |n: usize| usize::from(extra) >= n;
    let pts = (flags & 0x80 != 0 && has(5)).then(|| stamp(bytes.get(9..14)?)).flatten();
    let dts = (flags & 0xc0 == 0xc0 && has(10)).then(|| stamp(bytes.get(14..19)?)).flatten();
    let total = usize::from(l1) << 8 | usize::from(l2);
    let payload = (total > 0).then(|| (total + 6).saturating_sub(length));
    Some(Header { stream_id, pts, dts, length, payload })
}

fn stamp(bytes: &[u8]) -> Option<u64> {
    let &[a, b, c, d, e] = bytes.first_chunk::<5>()?;
    let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from);
    Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}

/// Writes a header in front of `payload` bytes; `bounded` says whether the length is written.
pub(crate) fn write(
    out: &mut Vec<u8>,
    stream_id: u8,
    pts: Option<Ticks>,
    dts: Option<Ticks>,
    payload: usize,
    bounded: bool,
) {
    let dts = dts.filter(|dts| pts.is_some_and(|pts| pts != *dts));
    let stamps: u8 = match (pts, dts) {
        (None, _) => 0,
        (Some(_), None) => 5,
        (Some(_), Some(_)) => 10,
    };
    let total = if bounded { u16::try_from(3 + usize::from(stamps) + payload).unwrap_or(0) } else { 0 };
    let [l1, l2] = total.to_be_bytes();
    let flags = match stamps {
        0 => 0,
        5 => 0x80,
        _ => 0xc0,
    };
    out.extend_from_slice(&[0, 0, 1, stream_id, l1, l2, 0x84, flags, stamps]);
    if let Some(pts) = pts {
        push_stamp(out, if dts.is_some() { 0x31 } else { 0x21 }, pts);
    }
    if let (Some(_), Some(dts)) = (pts, dts) {
        push_stamp(out, 0x11, dts);
    }
}

fn push_stamp(out: &mut Vec<u8>, marker: u8, at: Ticks) {
    let [.., a, b, c, d, e] = at.wrapped().to_be_bytes();
    // 33 bits: 3, 15 and 15 of them, each followed by a one.
    let high = (a & 1) << 3 | (b >> 6) << 1;
    let mid = [b << 2 | c >> 6, (c << 2 | d >> 6) | 1];
    let low = [d << 1 | e >> 7, e << 1 | 1];
    out.extend_from_slice(&[marker | high, mid[0], mid[1], low[0], low[1]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_time_stamp_survives() {
        for shift in 0..33 {
            let (pts, dts) = (Ticks(1 << shift), Ticks(0x1_2345_6789 ^ (1 << shift)));
            let mut out = Vec::new();
            write(&mut out, 0xe0, Some(pts), Some(dts), 100, true);
            let header = read(&out).unwrap();
            assert_eq!((header.pts, header.dts), (Some(pts.wrapped()), Some(dts.wrapped())));
            assert_eq!((header.length, header.payload), (out.len(), Some(100)));
        }
    }
}
