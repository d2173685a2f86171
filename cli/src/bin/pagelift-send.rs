//! pagelift-send
fn main() {}
