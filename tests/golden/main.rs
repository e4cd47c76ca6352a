//! Golden vectors: what the reference client and the real contracts answered.

mod chain;
mod interop;
mod vectors;
mod wire;
