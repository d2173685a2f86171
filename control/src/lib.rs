//! Control plane of pagelift: QMP, the QEMU driver and its direct mode.
//!
//! | module | what it holds |
//! |---|---|
//! | [`agent_client`] | the client of the agent that is loaded into QEMU |
//! | [`driver`] | what guest this is, whether it can move, its hand-over, and direct mode |
//! | [`failpoints`] | points at which a test can stop the program |
//! | [`job`] | the move of one guest: its set-up, status and report |
//! | [`remote`] | a receiver that the source starts on another host |
//! | [`qmp`] | QEMU's monitor: commands, events, descriptors |
//! | [`settle`] | whose a guest is after a crash, and letting exactly one run it |
//! | [`socket`] | the control socket: watching and changing a job that runs |
//! | [`throttle`] | who can slow the guest's vCPUs down, and how |
//!
//! The data path is the engine's: nothing here sees the content of a page.

pub mod agent_client;
pub mod driver;
pub mod failpoints;
pub mod job;
pub mod qmp;
pub mod remote;
pub mod settle;
pub mod socket;
pub mod throttle;
