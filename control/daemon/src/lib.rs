//! pageliftd: a daemon that manages guests and answers libvirt's RPC.
//!
//! Clients are `virsh`, libvirt's bindings and other daemons: what they send is described in
//! `pagelift-rpc`, and here it meets a network, threads and a hypervisor. Threads are plain: one for
//! each connection, one for each call that runs.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the configuration file |
//! | [`server`] | listeners, connections, limits |
//! | [`dispatch`] | from a procedure to what it does, and the rights that it needs |
//! | [`session`] | what a connection is to the daemon: rights, events, what to undo when it ends |
//! | [`guests`] | the guests of this host |
//! | [`migrate`] | moving guests to and from other hosts |
//! | [`driver`] | hypervisors |
//! | [`store`] | what outlives the daemon |
//! | [`events`] | events on their way to clients |
//! | [`host`] | what this host is like |
//! | [`daemon`] | all of it together |

pub mod config;
pub mod daemon;
pub mod dispatch;
pub mod driver;
pub mod events;
pub mod guests;
pub mod host;
pub mod migrate;
pub mod server;
pub mod session;
pub mod store;
