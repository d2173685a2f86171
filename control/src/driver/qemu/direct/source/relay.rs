//! QEMU's migration stream on the source: down to the engine as device state, answers back up.
//!
//! Two threads of their own, since QEMU writes with its big lock held and must never find nobody
//! reading. They end when the stream or the engine's queue does.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use pagelift_engine::guest::{DeviceChannel, StateSender};

use crate::driver::qemu::direct::preamble::Preamble;
use crate::driver::qemu::relay;

/// The two threads that pass QEMU's stream on, and its answers back.
#[derive(Debug)]
pub(super) struct Relay {
    stream: UnixStream,
    threads: [JoinHandle<()>; 2],
}

impl Relay {
    /// Starts passing on; `run` says whether the guest has to run on the target.
    ///
    /// # Errors
    /// When a thread or a descriptor is not to be had, or the connection is lost.
    pub(super) fn start(
        stream: UnixStream,
        channel: DeviceChannel,
        run: bool,
    ) -> std::io::Result<Self> {
        let DeviceChannel {
            state,
            incoming,
            waker: _,
        } = channel;
        state.send(&Preamble { run }.encode(), false)?;
        let (from, mut answers) = (stream.try_clone()?, stream.try_clone()?);
        let down = std::thread::Builder::new()
            .name("pagelift-qemu".into())
            .spawn(move || {
                // A broken connection ends the migration elsewhere; QEMU is then told to cancel. It
                // can only hear that if it need not wait here, with its big lock held.
                if relay::downstream(&from, StateWriter(state)).is_err() {
                    let _already_closed = from.shutdown(Shutdown::Both);
                }
            })?;
        let up = std::thread::Builder::new()
            .name("pagelift-reply".into())
            .spawn(move || {
                for chunk in incoming {
                    if answers.write_all(&chunk.bytes).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stream,
            threads: [down, up],
        })
    }

    /// Ends the passing on. The second thread goes when the engine's queue does.
    pub(super) fn end(self) {
        // Our end may be closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
        let [down, _up] = self.threads;
        let _ = down.join();
    }
}

/// The engine's device state as a byte stream.
struct StateWriter(StateSender);

impl Write for StateWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes, false)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
