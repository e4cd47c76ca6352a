//! Power cuts at random moments.

use crate::report::Report;
use crate::steps::Lab;

/// So many of them.
pub(crate) fn run(_lab: &mut Lab, _report: &mut Report, _cuts: u32) {}
