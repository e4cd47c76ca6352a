//! Stands where NVIDIA's management library would: this program was built without it.
use std::path::PathBuf;

use super::GpuReadings;
use crate::read::Root;

/// No library.
#[derive(Debug)]
pub(super) struct Library;

impl Library {
    pub(super) fn none() -> Self {
        Self
    }

    pub(super) fn usual() -> Self {
        Self
    }

    pub(super) fn at(_path: PathBuf) -> Self {
        Self
    }

    pub(super) fn read(&mut self, _root: &Root) -> Vec<GpuReadings> {
        Vec::new()
    }
}
