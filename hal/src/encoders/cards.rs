//! Graphics chips whose video engines differ from what their vendor and driver promise, by device number.
//!
//! Only what is certain stands here. A card that is not listed is taken to encode and decode; the probe finds
//! out. *Source:* the PCI ID list, NVIDIA's video codec support matrix, the kernel's `amdgpu` and `i915`.
use super::pci::GpuKind;
use super::{AMD, INTEL, NVIDIA};

/// What is known of a range of device numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    vendor: u16,
    first: u16,
    last: u16,
    /// Name of the chip or the cards.
    pub(super) name: &'static str,
    pub(super) kind: GpuKind,
    pub(super) encodes: bool,
    pub(super) decodes: bool,
}

const fn known(vendor: u16, range: [u16; 2], name: &'static str, kind: GpuKind, video: (bool, bool)) -> Known {
    let (encodes, decodes) = video;
    Known { vendor, first: range[0], last: range[1], name, kind, encodes, decodes }
}

const BOTH: (bool, bool) = (true, true);
const DECODE_ONLY: (bool, bool) = (false, true);
const NEITHER: (bool, bool) = (false, false);

/// The first that matches counts: exceptions stand before the range they are in.
const KNOWN: [Known; 46] = {
    use GpuKind::{DataCentre, Desktop, Integrated};
    [
        known(NVIDIA, [0x2082, 0x2082], "CMP 170HX", DataCentre, NEITHER),
        known(NVIDIA, [0x20c2, 0x20c2], "CMP 170HX", DataCentre, NEITHER),
        known(NVIDIA, [0x20b7, 0x20b7], "A30", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2080, 0x20ff], "A100 (GA100)", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2329, 0x2329], "H20", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2335, 0x2335], "H200", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x233b, 0x233b], "H200 NVL", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2342, 0x2348], "GH200", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2300, 0x237f], "H100 (GH100)", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2901, 0x2901], "B200", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x2900, 0x29ff], "B100 or B200 (GB100)", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x3180, 0x31ff], "B300 (GB110)", DataCentre, DECODE_ONLY),
        known(NVIDIA, [0x1d01, 0x1d02], "GeForce GT 1030 (GP108)", Desktop, DECODE_ONLY),
        known(NVIDIA, [0x1d00, 0x1d7f], "GP108", Desktop, DECODE_ONLY),
        known(NVIDIA, [0x1340, 0x137f], "GM108", Desktop, NEITHER),
        known(NVIDIA, [0x2b00, 0x2b00], "Thor", Integrated, BOTH),
        known(NVIDIA, [0x1b38, 0x1b38], "Tesla P40", DataCentre, BOTH),
        known(NVIDIA, [0x1bb3, 0x1bb3], "Tesla P4", DataCentre, BOTH),
        known(NVIDIA, [0x1db1, 0x1db8], "Tesla V100", DataCentre, BOTH),
        known(NVIDIA, [0x1eb8, 0x1eb8], "T4", DataCentre, BOTH),
        known(NVIDIA, [0x2235, 0x2235], "A40", DataCentre, BOTH),
        known(NVIDIA, [0x2236, 0x2236], "A10", DataCentre, BOTH),
        known(NVIDIA, [0x2237, 0x2237], "A10G", DataCentre, BOTH),
        known(NVIDIA, [0x25b6, 0x25b6], "A2 or A16", DataCentre, BOTH),
        known(NVIDIA, [0x26b5, 0x26b5], "L40", DataCentre, BOTH),
        known(NVIDIA, [0x26b9, 0x26b9], "L40S", DataCentre, BOTH),
        known(NVIDIA, [0x26ba, 0x26ba], "L20", DataCentre, BOTH),
        known(NVIDIA, [0x27b6, 0x27b6], "L2", DataCentre, BOTH),
        known(NVIDIA, [0x27b8, 0x27b8], "L4", DataCentre, BOTH),
        known(NVIDIA, [0x2684, 0x2685], "GeForce RTX 4090", Desktop, BOTH),
        known(AMD, [0x74a0, 0x74bf], "Instinct MI300", DataCentre, DECODE_ONLY),
        known(AMD, [0x738c, 0x738e], "Instinct MI100", DataCentre, BOTH),
        known(AMD, [0x7408, 0x7410], "Instinct MI200", DataCentre, BOTH),
        known(AMD, [0x743f, 0x743f], "Radeon RX 6400 or 6500 XT (Navi 24)", Desktop, DECODE_ONLY),
        known(AMD, [0x7420, 0x7424], "Radeon Pro W6300 to W6500M (Navi 24)", Desktop, DECODE_ONLY),
        known(AMD, [0x73bf, 0x73bf], "Radeon RX 6800 or 6900 (Navi 21)", Desktop, BOTH),
        known(AMD, [0x744c, 0x744c], "Radeon RX 7900 (Navi 31)", Desktop, BOTH),
        known(INTEL, [0x0bd0, 0x0bdb], "Data Center GPU Max", DataCentre, NEITHER),
        known(INTEL, [0x56c0, 0x56c2], "Data Center GPU Flex", DataCentre, BOTH),
        known(INTEL, [0x56a5, 0x56a5], "Arc A380", Desktop, BOTH),
        known(INTEL, [0x56a6, 0x56a6], "Arc A310", Desktop, BOTH),
        known(INTEL, [0x5690, 0x56bf], "Arc Alchemist", Desktop, BOTH),
        known(INTEL, [0xe200, 0xe21f], "Arc Battlemage", Desktop, BOTH),
        known(INTEL, [0x46d0, 0x46d4], "Alder Lake-N", Integrated, BOTH),
        known(INTEL, [0x46a0, 0x46cf], "Alder Lake", Integrated, BOTH),
        known(INTEL, [0xa780, 0xa7af], "Raptor Lake", Integrated, BOTH),
    ]
};

/// What is known of a card, if anything is.
pub(super) fn look_up(vendor: u16, device: u16) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.vendor == vendor && (known.first..=known.last).contains(&device))
}

/// Does a card's name, as its driver says it, belong to a chip without an encoder? For device numbers newer than the
/// list.
pub(super) fn named_without_encoder(name: &str) -> bool {
    let mut words = name.split([' ', '-', '/']);
    words.any(|word| {
        matches!(
            word,
            "A100"
                | "A100X"
                | "A30"
                | "A30X"
                | "A800"
                | "H100"
                | "H200"
                | "H800"
                | "H20"
                | "GH200"
                | "B100"
                | "B200"
                | "B300"
                | "GB200"
                | "GB300"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_centre_cards_without_an_encoder_are_known_and_their_cousins_with_one_too() {
        for device in [0x20b0, 0x20b2, 0x20b5, 0x20f1, 0x2330, 0x2331, 0x2335, 0x233b, 0x2342, 0x2901] {
            let known = look_up(NVIDIA, device).unwrap();
            assert!(!known.encodes && known.decodes, "{device:04x} {known:?}");
        }
        for device in [0x1eb8, 0x2236, 0x26b5, 0x27b8] {
            let known = look_up(NVIDIA, device).unwrap();
            assert!(known.encodes && known.kind == GpuKind::DataCentre, "{device:04x} {known:?}");
        }
        assert!(look_up(NVIDIA, 0x2704).is_none());
    }

    #[test]
    fn exceptions_come_before_the_range_they_are_in() {
        for (place, known) in KNOWN.iter().enumerate() {
            assert!(known.first <= known.last, "{known:?}");
            let found = look_up(known.vendor, known.first).unwrap();
            let hidden = KNOWN.iter().position(|other| std::ptr::eq(other, found)).is_some_and(|other| other < place);
            assert!(!hidden || found.last < known.last, "{known:?} can never match");
        }
    }

    #[test]
    fn names_are_matched_by_whole_words() {
        for name in ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA GH200 480GB"] {
            assert!(named_without_encoder(name), "{name}");
        }
        for name in ["NVIDIA RTX A3000", "NVIDIA A10", "NVIDIA L4", "NVIDIA GeForce RTX 4090", "Tesla T4"] {
            assert!(!named_without_encoder(name), "{name}");
        }
    }
}
