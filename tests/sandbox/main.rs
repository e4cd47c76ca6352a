//! Programs that try to break out, and one that does not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cgroup;
mod devices;
mod jail;
mod pool;
mod probe;
mod worker;
