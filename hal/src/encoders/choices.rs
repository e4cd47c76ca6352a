//! Which engines to try together: one that decodes and scales, one that encodes.
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Candidate, Engine, Hardware};

/// A pair of engines worth proving: what decodes and scales, and what encodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What decodes and scales.
    pub decode: Engine,
    /// What encodes.
    pub encode: Engine,
    /// Device nodes that a worker needs for both.
    pub nodes: Vec<PathBuf>,
}

impl Choice {
    /// Its name in configuration, logs and reports: `nvidia`, or `nvidia+software`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.decode == self.encode {
            return self.encode.name().to_owned();
        }
        format!("{}+{}", self.decode.name(), self.encode.name())
    }

    /// The main processor alone, which is always there.
    #[must_use]
    pub fn software() -> Self {
        Self { decode: Engine::Software, encode: Engine::Software, nodes: Vec::new() }
    }
}

impl Hardware {
    /// What is worth proving here, best first: engines that encode in the order given, then those that can at least
    /// decode and scale for the main processor, then the main processor alone. Of several devices of one engine the
    /// first is taken.
    #[must_use]
    pub fn choices(&self, order: &[Engine]) -> Vec<Choice> {
        let silicon = || order.iter().copied().filter(|engine| *engine != Engine::Software);
        let whole = silicon().filter_map(|engine| {
            let encoder = self.accepted().find(|candidate| candidate.engine == engine)?;
            let decoder = self.accepted_decoders().find(|candidate| is_beside(candidate, encoder));
            Some(match decoder {
                Some(decoder) => choice(engine, engine, &[decoder, encoder]),
                None => choice(Engine::Software, engine, &[encoder]),
            })
        });
        let half = silicon().filter_map(|engine| {
            let decoder = self.accepted_decoders().find(|candidate| candidate.engine == engine)?;
            Some(choice(engine, Engine::Software, &[decoder]))
        });
        whole.chain(half).chain([Choice::software()]).collect()
    }
}

/// Is this the decoder of the device that has the encoder? V4L2 has a device for each.
fn is_beside(decoder: &Candidate, encoder: &Candidate) -> bool {
    decoder.engine == encoder.engine && (decoder.engine == Engine::V4l2 || decoder.device == encoder.device)
}

fn choice(decode: Engine, encode: Engine, candidates: &[&Candidate]) -> Choice {
    let nodes: BTreeSet<PathBuf> = candidates.iter().flat_map(|candidate| candidate.nodes.iter().cloned()).collect();
    Choice { decode, encode, nodes: nodes.into_iter().collect() }
}
