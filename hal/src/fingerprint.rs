//! What proofs of encoders depend on, as one text.
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::encoders::{Candidate, Hardware, Verdict};

/// A text that changes when a proof must be made anew, and its hash. Nothing in it tells one box from another of
/// the same make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The text, one fact to a line.
    pub text: String,
    /// Its SHA-256 in hexadecimal digits.
    pub hash: String,
}

/// Raised when the text is put together in another way.
const VERSION: u32 = 1;

impl Hardware {
    /// What proofs of encoders depend on: processor, graphics, their drivers, the nodes that are there. The same on
    /// every start of the same box with the same system.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let text = self.facts();
        let hash = hex::encode(Sha256::digest(text.as_bytes()));
        Fingerprint { text, hash }
    }

    fn facts(&self) -> String {
        let mut text = format!("hardware {VERSION}\n");
        let mut fact = |name: &str, value: &str| {
            // A name from firmware must not be able to look like another fact.
            let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(text, "{name} {value}");
        };
        let processor = &self.processor;
        fact("board", self.board.name());
        fact("hypervisor", self.hypervisor.as_deref().unwrap_or("none"));
        fact("architecture", &processor.architecture);
        fact("processor", processor.model.as_deref().unwrap_or("unnamed"));
        fact("threads", &processor.threads.to_string());
        fact("vectors", &processor.vectors.join(" "));
        fact("kernel", self.identity.kernel.as_deref().unwrap_or("unknown"));
        for (name, version) in &self.drivers {
            fact("driver", &format!("{name} {version}"));
        }
        for gpu in &self.gpus {
            let driver = gpu.driver.as_deref().unwrap_or("none");
            fact("gpu", &format!("{} {:04x}:{:04x} {driver}", gpu.address, gpu.vendor, gpu.device));
        }
        for node in &self.render_nodes {
            fact("render", &format!("{} {}", node.node.display(), node.driver.as_deref().unwrap_or("none")));
        }
        for device in &self.video_devices {
            fact("video", &format!("{} {}", device.node.display(), device.name));
        }
        let nodes = |candidate: &Candidate| {
            let nodes = candidate.nodes.iter().map(|node| format!(" {}", node.display()));
            let verdict = match candidate.verdict {
                Verdict::Accepted => "accepted",
                Verdict::Refused => "refused",
            };
            format!("{} {verdict}{}", candidate.engine.name(), nodes.collect::<String>())
        };
        for candidate in &self.candidates {
            fact("encoder", &nodes(candidate));
        }
        for candidate in &self.decoders {
            fact("decoder", &nodes(candidate));
        }
        text
    }
}
