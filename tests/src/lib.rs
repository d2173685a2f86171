//! Whole-path tests of pagelift against real peers.
