//! A free port, and two network namespaces joined by a link with a rate.
//!
//! The namespaces hold nothing but their loopback and one end of a veth pair (veth(4)); a token
//! bucket (tc-tbf(8)) limits each direction. It takes root.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::bed::Bed;
use crate::process::MARK;
use crate::skip::Skip;

/// A TCP port of 127.0.0.1 that was free just now.
///
/// Another process may take it before the caller does; where a program can be told to listen on
/// port 0 and to say which it got, prefer that.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// One of the two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Target,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// The device's name, the same in both namespaces.
const DEVICE: &str = "veth0";

/// Two namespaces and the link between them, gone when dropped.
#[derive(Debug)]
pub struct NetPair {
    tag: String,
}

impl NetPair {
    /// Sets both up, with a rate in bits per second, Ethernet headers included, that holds for
    /// each direction; unlimited if `None`. The bed may have one pair.
    ///
    /// A [`Skip`] when this process may not, or the kernel lacks a module.
    pub fn new(bed: &Bed, rate_bits_per_s: Option<u64>) -> Result<Self, Skip> {
        // From here on, dropping it removes what was made.
        let pair = Self {
            tag: bed.tag().to_owned(),
        };
        pair.set_up(rate_bits_per_s)
            .map_err(|error| Skip(format!("no network namespaces: {error:#}")))?;
        Ok(pair)
    }

    fn set_up(&self, rate_bits_per_s: Option<u64>) -> Result<()> {
        let (source, target) = (self.namespace(Side::Source), self.namespace(Side::Target));
        self.run("ip", ["netns", "add", &source])?;
        self.run("ip", ["netns", "add", &target])?;
        self.run(
            "ip",
            [
                "link", "add", DEVICE, "netns", &source, "type", "veth", "peer", "name", DEVICE,
                "netns", &target,
            ],
        )?;
        for side in [Side::Source, Side::Target] {
            let address = format!("{}/30", self.address(side));
            self.ip(side, &["address", "add", &address, "dev", DEVICE])?;
            self.ip(side, &["link", "set", "lo", "up"])?;
            self.ip(side, &["link", "set", DEVICE, "up"])?;
            if let Some(rate) = rate_bits_per_s {
                self.limit(side, rate)?;
            }
        }
        Ok(())
    }

    fn limit(&self, side: Side, bits_per_s: u64) -> Result<()> {
        // The bucket must hold what may pass between two timer interrupts (at least 100 a
        // second), and one largest segment.
        let burst_bytes = (bits_per_s / 8 / 100).max(128 << 10);
        let (rate, burst) = (format!("{bits_per_s}bit"), format!("{burst_bytes}b"));
        let namespace = self.namespace(side);
        self.run(
            "tc",
            [
                "-n", &namespace, "qdisc", "add", "dev", DEVICE, "root", "tbf", "rate", &rate,
                "burst", &burst, "latency", "50ms",
            ],
        )
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn namespace(&self, side: Side) -> String {
        format!("{}-{}", self.tag, side.name())
    }

    /// The address of that end: 192.0.2.1 and 192.0.2.2 (RFC 5737).
    pub fn address(&self, side: Side) -> Ipv4Addr {
        match side {
            Side::Source => Ipv4Addr::new(192, 0, 2, 1),
            Side::Target => Ipv4Addr::new(192, 0, 2, 2),
        }
    }

    /// The words that make a command run inside; a prefix for [`Builder::prefix`]. `ip netns
    /// exec` becomes the command, so the process id is the command's own.
    ///
    /// [`Builder::prefix`]: crate::Builder::prefix
    pub fn prefix(&self, side: Side) -> [String; 4] {
        ["ip", "netns", "exec", &self.namespace(side)].map(str::to_owned)
    }

    /// A command that runs inside and carries the bed's mark.
    pub fn command(&self, bed: &Bed, side: Side, program: impl AsRef<OsStr>) -> Command {
        let [ip, rest @ ..] = self.prefix(side);
        let mut command = bed.command(ip);
        command.args(rest).arg(program);
        command
    }

    /// Bytes that have left that end so far, Ethernet headers included; segments that the kernel
    /// keeps together count with one header (ip-link(8), `-statistics`).
    pub fn sent_bytes(&self, side: Side) -> Result<u64> {
        let output = Command::new("ip")
            .args(["-n", &self.namespace(side), "-s", "-j", "link", "show"])
            .args(["dev", DEVICE])
            .output()?;
        let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        links[0]["stats64"]["tx"]["bytes"]
            .as_u64()
            .with_context(|| format!("no statistics of {DEVICE}: {links}"))
    }

    /// Cuts the link: packets vanish without a word, as with a pulled cable.
    pub fn cut(&self) -> Result<()> {
        self.ip(Side::Source, &["link", "set", DEVICE, "down"])
    }

    /// Makes a cut link whole again.
    pub fn mend(&self) -> Result<()> {
        self.ip(Side::Source, &["link", "set", DEVICE, "up"])
    }

    fn ip(&self, side: Side, words: &[&str]) -> Result<()> {
        let namespace = self.namespace(side);
        self.run("ip", ["-n", &namespace].iter().chain(words))
    }

    /// The command carries the bed's mark, so that none outlives the bed and makes things after it.
    fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        words: impl IntoIterator<Item = S>,
    ) -> Result<()> {
        let words: Vec<S> = words.into_iter().collect();
        let output = Command::new(program)
            .args(&words)
            .env(MARK, &self.tag)
            .output()?;
        if !output.status.success() {
            let said: Vec<_> = words
                .iter()
                .map(|word| word.as_ref().to_string_lossy())
                .collect();
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {}: {}", said.join(" "), why.trim());
        }
        Ok(())
    }
}

impl Drop for NetPair {
    fn drop(&mut self) {
        for side in [Side::Source, Side::Target] {
            // Not there if setting up failed; the bed's leak check names what stays.
            let _ = self.run("ip", ["netns", "del", &self.namespace(side)]);
        }
    }
}
