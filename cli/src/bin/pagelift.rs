//! pagelift
fn main() {}
