//! The main processor.
use serde::{Deserialize, Serialize};

use crate::read::Root;

/// The main processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Its name, where it has one.
    pub model: Option<String>,
    /// Kind of instruction set, e.g. `x86_64`.
    pub architecture: String,
    /// Processors the system runs on.
    pub threads: usize,
    /// Vector extensions encoders profit from.
    pub vectors: Vec<String>,
}

const VECTORS: [&str; 6] = ["sse4_2", "avx", "avx2", "avx512f", "asimd", "sve"];

pub(super) fn read(root: &Root, cpuinfo: &str) -> Processor {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let flags = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let vectors = VECTORS.into_iter().filter(|known| flags.split(' ').any(|flag| flag == *known));
    let listed = cpuinfo.lines().filter(|line| line.split(':').next().is_some_and(|key| key.trim() == "processor"));
    // Newer kernels say it; before, the words of `cpuinfo` do; without either it is what we were built for.
    let told = match () {
        () if field("vendor_id").is_some() => Some("x86_64"),
        () if field("CPU architecture").as_deref() == Some("7") => Some("arm"),
        () if field("CPU implementer").is_some() => Some("aarch64"),
        () => None,
    };
    let architecture = root.text("proc/sys/kernel/arch").filter(|arch| !arch.is_empty());
    Processor {
        model: field("model name").or_else(|| field("Model")).or_else(|| arm_core(&field("CPU part")?)),
        architecture: architecture.unwrap_or_else(|| told.unwrap_or(std::env::consts::ARCH).to_owned()),
        threads: listed.count(),
        vectors: vectors.map(str::to_owned).collect(),
    }
}

/// Arm's own cores by part number, as far as boards we know have them; 64-bit kernels name no model.
fn arm_core(part: &str) -> Option<String> {
    let name = match part {
        "0x004" => "NVIDIA Carmel",
        "0xd03" => "Arm Cortex-A53",
        "0xd07" => "Arm Cortex-A57",
        "0xd08" => "Arm Cortex-A72",
        "0xd0b" => "Arm Cortex-A76",
        "0xd42" => "Arm Cortex-A78AE",
        "0xd83" => "Arm Neoverse-V3AE",
        "0xd4f" => "Arm Neoverse-V2",
        _ => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::fixture;

    #[test]
    fn a_boards_processor_is_not_taken_for_the_one_we_were_built_for() {
        let cpuinfo =
            "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd42\n";
        let processor = read(&Root::new(fixture(&[]).path()), cpuinfo);
        assert_eq!(processor.architecture, "aarch64");
        assert_eq!(processor.model.as_deref(), Some("Arm Cortex-A78AE"));
        assert_eq!((processor.threads, processor.vectors), (1, vec!["asimd".to_owned()]));
    }
}
