//! Transports for pagelift: TCP channels.
