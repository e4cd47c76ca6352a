//! Program tables: which packet numbers carry what.
use crate::packet::{LENGTH, Packet};

pub(crate) const PAT_PID: u16 = 0;
pub(crate) const SDT_PID: u16 = 0x11;
/// Longest section of the tables we read.
const MAX_SECTION: usize = 1024;
/// More programs than this in one stream are ignored.
pub(crate) const MAX_PROGRAMS: usize = 64;
/// More elementary streams than this in one program are ignored.
const MAX_STREAMS: usize = 64;

/// One elementary stream of a program, as its table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stream_type: u8,
    pub(crate) pid: u16,
    pub(crate) descriptors: Vec<u8>,
}

/// Puts the sections of one packet number together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Vec<u8>,
    counter: Option<u8>,
}

impl Assembler {
    /// Takes a packet and returns the sections it completes, checked.
    pub(crate) fn push(&mut self, packet: &Packet<'_>) -> Vec<Vec<u8>> {
        let mut done = Vec::new();
        let in_order = self.counter.is_some_and(|c| (c + 1) & 0x0f == packet.counter);
        self.counter = Some(packet.counter);
        if !in_order {
            self.partial.clear();
        }
        if packet.unit_start {
            let Some((&pointer, rest)) = packet.payload.split_first() else { return done };
            let Some((tail, fresh)) = rest.split_at_checked(usize::from(pointer)) else { return done };
            if !self.partial.is_empty() {
                self.take(tail, &mut done);
            }
            self.partial.clear();
            self.take(fresh, &mut done);
        } else if !self.partial.is_empty() {
            self.take(packet.payload, &mut done);
        }
        done
    }

    fn take(&mut self, bytes: &[u8], done: &mut Vec<Vec<u8>>) {
        self.partial.extend_from_slice(bytes);
        loop {
            let Some(&[table, high, low]) = self.partial.first_chunk::<3>() else { return };
            let length = 3 + (usize::from(high & 0x0f) << 8 | usize::from(low));
            if table == 0xff || length > MAX_SECTION {
                self.partial.clear();
                return;
            }
            if self.partial.len() < length {
                return;
            }
            let section: Vec<u8> = self.partial.drain(..length).collect();
            if crc32(&section) == 0 {
                done.push(section);
            }
        }
    }
}

/// Reads a program association table: the packet numbers of the program tables.
pub(crate) fn read_pat(section: &[u8]) -> Vec<u16> {
    if section.first() != Some(&0) {
        return Vec::new();
    }
    let body = section.get(8..section.len().saturating_sub(4)).unwrap_or_default();
    body.chunks_exact(4)
        .filter(|entry| entry[..2] != [0, 0])
        .map(|entry| u16::from(entry[2] & 0x1f) << 8 | u16::from(entry[3]))
        .take(MAX_PROGRAMS)
        .collect()
}

/// Reads a program map table; empty when it is none.
pub(crate) fn read_pmt(section: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    if section.first() != Some(&2) {
        return entries;
    }
    let end = section.len().saturating_sub(4);
    let info = section.get(10..12).map_or(0, |l| usize::from(l[0] & 0x0f) << 8 | usize::from(l[1]));
    let mut rest = section.get(12 + info..end).unwrap_or_default();
    while let Some((&[stream_type, p1, p2, l1, l2], tail)) = rest.split_first_chunk::<5>() {
        let length = usize::from(l1 & 0x0f) << 8 | usize::from(l2);
        let Some((descriptors, tail)) = tail.split_at_checked(length) else { break };
        if entries.len() == MAX_STREAMS {
            break;
        }
        let pid = u16::from(p1 & 0x1f) << 8 | u16::from(p2);
        entries.push(Entry { stream_type, pid, descriptors: descriptors.to_vec() });
        rest = tail;
    }
    entries
}

/// The descriptors of an entry: tag and body.
pub(crate) fn descriptors(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[tag, length], tail) = bytes.split_first_chunk::<2>()?;
        let (body, tail) = tail.split_at_checked(usize::from(length))?;
        bytes = tail;
        Some((tag, body))
    })
}

/// A table that names one program, number 1.
pub(crate) fn write_pat(pmt_pid: u16) -> Vec<u8> {
    let [p1, p2] = pmt_pid.to_be_bytes();
    section(0x00, 0xb0, &[0, 1, 0xc1, 0, 0, 0, 1, 0xe0 | p1, p2])
}

/// The table of program 1.
pub(crate) fn write_pmt(pcr_pid: u16, entries: &[Entry]) -> Vec<u8> {
    let [c1, c2] = pcr_pid.to_be_bytes();
    let mut body = vec![0, 1, 0xc1, 0, 0, 0xe0 | c1, c2, 0xf0, 0];
    for entry in entries {
        let [p1, p2] = entry.pid.to_be_bytes();
        let length = u16::try_from(entry.descriptors.len()).unwrap_or(0).min(MAX_DESCRIPTORS);
        let [l1, l2] = length.to_be_bytes();
        body.extend_from_slice(&[entry.stream_type, 0xe0 | p1, p2, 0xf0 | l1, l2]);
        body.extend_from_slice(entry.descriptors.get(..usize::from(length)).unwrap_or_default());
    }
    section(0x02, 0xb0, &body)
}

/// Descriptors longer than this are cut, so that a table stays one section.
pub(crate) const MAX_DESCRIPTORS: u16 = 400;

/// A service description: who provides program 1.
pub(crate) fn write_sdt(provider: &str) -> Vec<u8> {
    let provider = truncate(provider, 200);
    let name = "Millrace";
    let mut service = vec![1];
    for text in [provider, name] {
        service.push(u8::try_from(text.len()).unwrap_or(0));
        service.extend_from_slice(text.as_bytes());
    }
    let service_length = u8::try_from(service.len()).unwrap_or(u8::MAX);
    let [l1, l2] = (u16::from(service_length) + 2).to_be_bytes();
    let mut body = vec![0, 1, 0xc1, 0, 0, 0, 1, 0xff, 0, 1, 0xfc, 0x80 | l1, l2, 0x48, service_length];
    body.extend_from_slice(&service);
    section(0x42, 0xf0, &body)
}

fn truncate(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn section(table: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let [l1, l2] = u16::try_from(body.len() + 4).unwrap_or(0).to_be_bytes();
    let mut out = vec![table, flags | l1, l2];
    out.extend_from_slice(body);
    let crc = crc32(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Splits a section into the payloads of its packets, each filled up.
pub(crate) fn payloads(section: &[u8]) -> Vec<[u8; LENGTH - 4]> {
    let mut with_pointer = Vec::with_capacity(section.len() + 1);
    with_pointer.push(0);
    with_pointer.extend_from_slice(section);
    let fill = |chunk: &[u8]| {
        let mut payload = [0xff; LENGTH - 4];
        payload.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        payload
    };
    with_pointer.chunks(LENGTH - 4).map(fill).collect()
}

/// The checksum of MPEG-2 sections; a section with its checksum behind gives 0.
fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8)
            .fold(crc ^ u32::from(*byte) << 24, |crc, _| if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_table_reads_back() {
        let entries = vec![
            Entry { stream_type: 0x1b, pid: 0x100, descriptors: vec![] },
            Entry { stream_type: 0x0f, pid: 0x101, descriptors: vec![0x0a, 4, b'e', b'n', b'g', 0] },
        ];
        assert_eq!(read_pmt(&write_pmt(0x100, &entries)), entries);
        assert_eq!(read_pat(&write_pat(0x1000)), vec![0x1000]);
    }

    #[test]
    fn a_damaged_section_is_dropped() {
        let mut payload = vec![0];
        payload.extend(write_pat(0x1000));
        let whole = Packet { pid: 0, unit_start: true, counter: 0, payload: &payload };
        assert_eq!(Assembler::default().push(&whole).len(), 1);
        let mut broken = payload.clone();
        broken[5] ^= 1;
        let broken = Packet { payload: &broken, ..whole };
        assert!(Assembler::default().push(&broken).is_empty());
    }
}
