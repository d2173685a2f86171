//! pagelift-receive
fn main() {}
