//! powercut.
