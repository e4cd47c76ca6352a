//! Versions of the drivers in charge.
use std::collections::BTreeMap;
use std::path::Path;

use super::{Gpu, RenderNode};
use crate::read::Root;

/// By driver; what comes with the kernel has the kernel's version.
pub(super) fn read(root: &Root, gpus: &[Gpu], nodes: &[RenderNode]) -> BTreeMap<String, String> {
    let kernel = root.text("proc/sys/kernel/osrelease").filter(|kernel| !kernel.is_empty());
    let mut versions = BTreeMap::new();
    let in_charge = gpus.iter().filter_map(|gpu| gpu.driver.clone());
    for driver in in_charge.chain(nodes.iter().filter_map(|node| node.driver.clone())) {
        let own = match driver.as_str() {
            "nvidia" => root.text("proc/driver/nvidia/version").and_then(|text| nvidia(&text)),
            _ => None,
        };
        let module = || root.text(Path::new("sys/module").join(&driver).join("version"));
        let with_kernel = || kernel.as_ref().map(|kernel| format!("of kernel {kernel}"));
        if let Some(version) = own.or_else(module).filter(|version| !version.is_empty()).or_else(with_kernel) {
            versions.insert(driver, version);
        }
    }
    if let Some(version) = root.text("etc/nv_tegra_release").and_then(|text| l4t(&text)) {
        versions.insert("l4t".to_owned(), version);
    }
    versions
}

/// The first word of digits and dots after `Kernel Module`, which may name an architecture in between.
fn nvidia(text: &str) -> Option<String> {
    let (_, rest) = text.lines().next()?.split_once("Kernel Module")?;
    let version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    rest.split_whitespace().find(version).map(str::to_owned)
}

/// `# R36 (release), REVISION: 4.3, …` is 36.4.3.
fn l4t(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("# R"))?;
    let major: u16 = line.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let (_, rest) = line.split_once("REVISION:")?;
    let revision = rest.split(',').next()?.trim();
    let sane = revision.len() <= 16 && revision.bytes().all(|byte| byte == b'.' || byte.is_ascii_digit());
    (sane && !revision.is_empty()).then(|| format!("{major}.{revision}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nvidias_version_is_found_in_both_forms() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 12\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (root@host)\n";
        assert_eq!(nvidia(closed).as_deref(), Some("550.54.14"));
        assert_eq!(nvidia(open).as_deref(), Some("570.86.15"));
    }

    #[test]
    fn the_version_of_jetsons_system_is_put_together() {
        let text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n";
        assert_eq!(l4t(text).as_deref(), Some("36.4.3"));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(?s).{0,200}") {
            let _ = (nvidia(&text), l4t(&text));
        }

        #[test]
        fn every_release_is_read_back(major in 28u16..60, minor in 0u8..20, patch in 0u8..20) {
            let text = format!("# R{major} (release), REVISION: {minor}.{patch}, GCID: 1, BOARD: generic");
            prop_assert_eq!(l4t(&text), Some(format!("{major}.{minor}.{patch}")));
        }
    }
}
