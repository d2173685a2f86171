//! Tells the source of memory that it may write, over the stream beside a data connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use pagelift_engine::memory::GuestMemory;
use pagelift_engine::transport::{Expose, Fence};

use super::exposure::{Exposure, chunk_around, mapped};
use super::keys::{KeyStream, Record, Window};
use super::verbs::{Device, Wake};
use super::windows::MAX_CHUNKS;

/// What a data connection of the target has beside its messages.
pub(super) struct Side {
    pub(super) stream: KeyStream,
    pub(super) device: &'static Device,
    pub(super) pin_all: bool,
    pub(super) wake: Wake,
}

/// The target's end of a connection: for a data connection, what it has beside its messages.
pub(super) struct ExposableConnection {
    pub(super) exposure: Arc<Exposure>,
    pub(super) side: Arc<Mutex<Option<Side>>>,
}

impl Expose for ExposableConnection {
    fn expose(self: Box<Self>, memory: Arc<dyn GuestMemory>) -> io::Result<Box<dyn Fence>> {
        let side = self
            .side
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let side = side.ok_or(io::ErrorKind::NotConnected)?;
        mapped(&*memory)?;
        let exposure = Arc::clone(&self.exposure);
        let wake = side.wake.clone();
        let kept = Arc::clone(&memory);
        let thread = thread::Builder::new()
            .name("pagelift-keys".into())
            .spawn(move || serve(&exposure, side, &memory))?;
        Ok(Box::new(ExposedMemory {
            exposure: self.exposure,
            wake,
            thread: Some(thread),
            _memory: kept,
        }))
    }
}

/// Memory that is exposed by a connection.
struct ExposedMemory {
    exposure: Arc<Exposure>,
    wake: Wake,
    thread: Option<thread::JoinHandle<()>>,
    /// It outlives what is registered.
    _memory: Arc<dyn GuestMemory>,
}

impl Fence for ExposedMemory {
    fn close(&mut self) -> io::Result<()> {
        self.exposure.close()
    }
}

impl Drop for ExposedMemory {
    fn drop(&mut self) {
        // Nothing may stay registered, or be registered still, when the memory goes. What fails has been
        // said where the fence was closed.
        let _ = self.exposure.close();
        self.wake.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Tells the source of windows until the connection ends. The source finds out what has failed.
fn serve(exposure: &Arc<Exposure>, mut side: Side, memory: &Arc<dyn GuestMemory>) {
    let served = match side.pin_all {
        true => tell_all(exposure, &mut side, memory),
        false => serve_chunks(exposure, &mut side, memory),
    };
    if let Err(error) = served
        && side.wake.check().is_ok()
    {
        let _ = side.stream.write(&Record::Refused(error.to_string()));
    }
}

fn tell_all(
    exposure: &Arc<Exposure>,
    side: &mut Side,
    memory: &Arc<dyn GuestMemory>,
) -> io::Result<()> {
    let stream = &mut side.stream;
    let tell = |window| stream.write(&Record::Window(window));
    exposure.pin_all(memory, side.device, tell)?;
    side.stream.write(&Record::Everything)
}

fn serve_chunks(
    exposure: &Exposure,
    side: &mut Side,
    memory: &Arc<dyn GuestMemory>,
) -> io::Result<()> {
    let pages = mapped(&**memory)?;
    let mut known: Vec<Window> = Vec::with_capacity(MAX_CHUNKS);
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "that cannot be asked for");
    loop {
        side.wake.check()?;
        match side.stream.rx.read() {
            Ok(Record::Wanted(page)) if known.len() < MAX_CHUNKS => {
                let chunk = chunk_around(memory.layout(), page).ok_or_else(strange)?;
                let window = exposure.register(pages, side.device, chunk)?;
                known.push(window);
                side.stream.write(&Record::Window(window))?;
            }
            Ok(Record::Done(first)) => {
                let at = known
                    .iter()
                    .position(|window| window.pages.first.0 == first);
                // The oldest of them: a source may have asked for one twice, and gives them back in order.
                exposure.release(known.remove(at.ok_or_else(strange)?))?;
            }
            Ok(_) => return Err(strange()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The source has gone.
            Err(_) => return Ok(()),
        }
    }
}
