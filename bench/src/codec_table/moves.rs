//! One move: two processes, a link between them, and the check that all memory arrived.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use pagelift_bench::machine;
use pagelift_bench::memory::touch;
use pagelift_engine::codec::MemoryDigest;
use pagelift_engine::pipeline::digest_memory;
use pagelift_engine::units::ByteCount;
use pagelift_tests::{Bed, NetPair, Side};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ends::{Listening, Sent};
use crate::guest;
use crate::options::{Sending, Setting};

/// Where the two ends are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In network namespaces of their own.
    Namespaces(NetPair),
    /// Where this process is, joined by its loopback.
    Loopback,
}

impl Place {
    fn command(&self, bed: &Bed, side: Side, setting: &Setting) -> Result<Command> {
        let program = match &setting.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("finding this program")?,
        };
        Ok(match self {
            Self::Namespaces(net) => net.command(bed, side, program),
            Self::Loopback => bed.command(program),
        })
    }

    fn target(&self) -> Ipv4Addr {
        match self {
            Self::Namespaces(net) => net.address(Side::Target),
            Self::Loopback => Ipv4Addr::LOCALHOST,
        }
    }
}

/// What is moved again and again.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// Where everything is made.
    pub(crate) bed: &'a Bed,
    /// The link.
    pub(crate) place: &'a Place,
    /// The file with the source's memory.
    pub(crate) memory: &'a Path,
    /// Its size.
    pub(crate) bytes: ByteCount,
    /// Its digest, unless the guest writes to it.
    pub(crate) digest: MemoryDigest,
    /// What the source does beside packing.
    pub(crate) sending: &'a Sending,
}

/// One move, measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Move {
    /// What the source says.
    #[serde(flatten)]
    pub(crate) sent: Sent,
    /// CPUs that everything else kept busy meanwhile, interrupts included, on average.
    pub(crate) others_cpus: f64,
}

impl Bench<'_> {
    /// Moves the memory to a fresh target.
    ///
    /// # Errors
    /// When it did not arrive whole: then there is nothing to measure.
    pub(crate) fn run(&self, setting: &Setting) -> Result<Move> {
        let arrived = self.bed.shm_file("target", self.bytes.0)?;
        touch(self.bytes.0 as usize);
        let host = self.place.target().to_string();
        let mut command = self.place.command(self.bed, Side::Target, setting)?;
        command.args(["target", "--host", &host, "--memory"]);
        let mut target = Process::start(command.arg(arrived.path()))?;
        let Listening { port } = target.hear()?;

        let (cpu_before, start) = (machine::cpu_seconds(), Instant::now());
        let mut command = self.place.command(self.bed, Side::Source, setting)?;
        command
            .args(["source", "--host", &host, "--port", &port.to_string()])
            .args(self.sending.words())
            .args(["--compress", &setting.compress.to_string(), "--memory"])
            .arg(self.memory);
        let mut source = Process::start(&mut command)?;
        let sent: Sent = source.hear()?;
        source.finish()?;
        target.finish()?;
        let window_s = start.elapsed().as_secs_f64();
        let machine_cpu_s = machine::cpu_seconds() - cpu_before;

        let sent_digest = match self.sending.guest_writes {
            Some(_) => digest(self.memory)?,
            None => self.digest,
        };
        ensure!(
            digest(arrived.path())? == sent_digest,
            "what arrived is not what was sent"
        );
        let others_s = machine_cpu_s - sent.source_cpu_s - sent.target_cpu_s;
        Ok(Move {
            others_cpus: (others_s / window_s).max(0.0),
            sent,
        })
    }
}

/// The digest of the memory in a file.
pub(crate) fn digest(path: &Path) -> Result<MemoryDigest> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(digest_memory(&guest::memory(path)?, threads)?)
}

/// A process that speaks in lines of JSON, killed when this is dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    words: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting one end of a move")?;
        let words = child.stdout.take().context("its stdout is piped")?;
        Ok(Self {
            child,
            words: BufReader::new(words),
        })
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.words.read_line(&mut line)?;
        ensure!(!line.is_empty(), "one end of the move ended without a word");
        serde_json::from_str(&line).with_context(|| format!("one end said {line:?}"))
    }

    fn finish(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("one end of the move failed: {status}");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
