//! Transport packets: finding them, and finding them again after garbage.

/// Every transport packet starts with this byte.
pub(crate) const SYNC: u8 = 0x47;
/// Length of a packet without what recorders put around it.
pub(crate) const LENGTH: usize = 188;
/// Plain; with a 4-byte time code in front; with 16 bytes of error correction behind.
const STRIDES: [usize; 3] = [LENGTH, 192, 204];

/// One transport packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) pid: u16,
    pub(crate) unit_start: bool,
    pub(crate) counter: u8,
    pub(crate) payload: &'a [u8],
}

/// All packets of a piece of transport stream that carry payload in the clear.
#[derive(Debug, Clone)]
pub(crate) struct Packets<'a> {
    data: &'a [u8],
    at: usize,
    stride: usize,
}

impl<'a> Packets<'a> {
    /// Looks for packets; `None` when there are none.
    pub(crate) fn find(data: &'a [u8]) -> Option<Self> {
        let mut best: Option<(usize, Self)> = None;
        for stride in STRIDES {
            let Some(at) = next_sync(data, 0, stride) else { continue };
            let hits = data.get(at..).unwrap_or_default().iter().step_by(stride).filter(|b| **b == SYNC).count();
            if best.as_ref().is_none_or(|(most, _)| hits > *most) {
                best = Some((hits, Self { data, at, stride }));
            }
        }
        best.map(|(_, packets)| packets)
    }
}

/// The first place from `from` on where packets follow each other.
fn next_sync(data: &[u8], from: usize, stride: usize) -> Option<usize> {
    let last = data.len().checked_sub(LENGTH)?;
    (from..=last).find(|&at| [0, 1, 2].iter().all(|n| data.get(at + n * stride).is_none_or(|b| *b == SYNC)))
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        loop {
            let raw = self.data.get(self.at..self.at.checked_add(LENGTH)?)?;
            if raw.first() != Some(&SYNC) {
                self.at = next_sync(self.data, self.at + 1, self.stride)?;
                continue;
            }
            self.at += self.stride;
            if let Some(packet) = parse(raw) {
                return Some(packet);
            }
        }
    }
}

/// Takes one packet apart; `None` when it carries nothing we can use.
pub(crate) fn parse(raw: &[u8]) -> Option<Packet<'_>> {
    let &[_, b1, b2, b3] = raw.first_chunk::<4>()?;
    let scrambled = b3 & 0xc0 != 0;
    let has_payload = b3 & 0x10 != 0;
    if scrambled || !has_payload {
        return None;
    }
    let skip = if b3 & 0x20 != 0 { 5 + usize::from(*raw.get(4)?) } else { 4 };
    let payload = raw.get(skip..)?;
    Some(Packet {
        pid: u16::from(b1 & 0x1f) << 8 | u16::from(b2),
        unit_start: b1 & 0x40 != 0,
        counter: b3 & 0x0f,
        payload,
    })
}

/// Recognises a packet sent twice in a row, which the standard allows.
#[derive(Debug, Default)]
pub(crate) struct Repeats<'a> {
    last: Option<(u8, &'a [u8])>,
}

impl<'a> Repeats<'a> {
    /// Is this the packet before it once more?
    pub(crate) fn is_repeat(&mut self, packet: &Packet<'a>) -> bool {
        let this = (packet.counter, packet.payload);
        let repeat = self.last == Some(this);
        self.last = Some(this);
        repeat
    }
}
