//! KVM's dirty log and dirty rings, with a vCPU that writes a byte at a time.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "a machine is made by ioctls, of mapped memory")]

mod log;
mod machine;
mod rings;
