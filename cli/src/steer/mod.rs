//! Steering a migration from outside its process: the control socket, and who speaks to it.
//!
//! ```text
//!   pagelift-send --control PATH            pagelift ctl PATH set downtime=100ms
//!     [`server`]: one thread listens,         [`client`]: writes one line,
//!     one serves each client  <-- JSON lines -->         prints the answer
//!     [`request`]: what a line asks for
//!     [`board`]: what `status` says
//! ```
//!
//! The lines are a contract: `docs/control-socket.md`.

pub mod board;
pub mod client;
pub mod request;
pub mod server;

pub use board::Board;
pub use server::Server;
