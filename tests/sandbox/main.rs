//! Programs that try to break out, and one that does not.

mod jail;
mod pool;
mod probe;
mod worker;
