//! Benchmarks: criterion kernels, and whole paths side by side with real peers.
//!
//! `docs/benchmarks.md` says how to run them and what their figures mean.

pub mod figures;
pub mod machine;
pub mod memory;
pub mod pages;
pub mod qemu;
