//! Benchmarks: criterion kernels, and whole paths side by side with real peers.

pub mod pages;
