//! Authenticated connections over loopback TCP: whole moves, what is seen on the way, and everybody
//! who must not get in.

mod authority;
mod binding;
mod capture;
mod forwarder;
mod guest;
mod pairs;
mod refusals;
mod strangers;
