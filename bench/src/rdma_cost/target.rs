//! The process that memory is brought to.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pagelift_engine::memory::{FileMemory, GuestMemory, ReadPages, SharedMemory};
use pagelift_engine::pipeline::process_cpu;
use pagelift_engine::transport::Fence;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageRange};
use pagelift_transports::{Endpoint, Security};

use super::{BATCH_PAGES, WORD_BYTES, Word, content};

/// Memory of so many bytes, which nobody else sees.
pub(super) fn memory(bytes: ByteCount) -> Result<Arc<SharedMemory>> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    file.set_len(bytes.0)?;
    Ok(Arc::new(SharedMemory::map(FileMemory::whole(file)?)?))
}

/// Takes memory, says what that took, and that all of it is there.
pub(super) fn run(listen: &Endpoint, bytes: ByteCount) -> Result<()> {
    let memory = memory(bytes)?;
    let listener = listen.listen_with(&Security::Insecure)?;
    println!("{}", listener.address());
    let accepted = listener.accept(Duration::from_secs(60))?;
    let mut connection = accepted.context("nobody came")?;
    let mut buffer = vec![0; BATCH_PAGES as usize * PAGE_BYTES];
    let mut fence: Option<Box<dyn Fence>> = None;
    let mut cpu_before = process_cpu();
    loop {
        let mut word = [0; WORD_BYTES];
        receive(&mut *connection.rx, &mut word)?;
        let number = |at: usize| {
            let bytes = word[at..].first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let range = PageRange::new(number(8), number(16).min(BATCH_PAGES));
        match number(0) {
            kind if kind == Word::Begin as u64 => {
                if let Some(exposable) = connection.one_sided.take() {
                    fence = Some(exposable.expose(memory.clone())?);
                }
            }
            kind if kind == Word::Start as u64 => cpu_before = process_cpu(),
            kind if kind == Word::Pages as u64 => {
                let pages = &mut buffer[..range.len_bytes()];
                receive(&mut *connection.rx, pages)?;
                memory.write(range.first, pages)?;
            }
            kind if kind == Word::Placed as u64 => {}
            kind if kind == Word::End as u64 => break,
            other => bail!("a frame of kind {other}"),
        }
    }
    let cpu = process_cpu().saturating_sub(cpu_before);
    if let Some(mut fence) = fence {
        fence.close()?;
    }
    let mut page = [0; PAGE_BYTES];
    for index in 0..memory.layout().pages().0 {
        memory.read(PageRange::new(index, 1), &mut page)?;
        ensure!(page[..] == content(index), "page {index} is not there");
    }
    println!("CPU s: {}", cpu.as_secs_f64());
    Ok(())
}

fn receive(from: &mut dyn Read, out: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < out.len() {
        match from.read(&mut out[filled..]) {
            Ok(0) => bail!("the connection has ended"),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
