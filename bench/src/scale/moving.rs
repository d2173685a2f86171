//! The cost of a move.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use pagelift_bench::memory::memfd;
use pagelift_engine::guest;
use pagelift_engine::job::DeltaCacheSize;
use pagelift_engine::memory::FileMemory;
use pagelift_engine::units::ByteCount;
use pagelift_engine::{Incoming, Outgoing, SourceGuest, TargetGuest};
use pagelift_transports::Endpoint;

use crate::guest::{Guest, own_mib};

/// What the delta cache may take: a choice of the user's, and no cost of the size.
const DELTA_CACHE: DeltaCacheSize = DeltaCacheSize::Bytes(ByteCount(32 << 20));

/// Longest that a move may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether the guest runs; held by its vCPU while it writes.
#[derive(Clone, Default)]
struct Vm(Arc<Mutex<bool>>);

impl Vm {
    fn set(&self, runs: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = runs;
    }
}

impl SourceGuest for Vm {
    fn pause(&mut self) -> guest::Result<()> {
        self.set(false);
        Ok(())
    }

    fn save_devices(&mut self, _: &mut dyn Write) -> guest::Result<()> {
        Ok(())
    }

    fn relinquish(&mut self) -> guest::Result<()> {
        Ok(())
    }

    fn resume(&mut self) -> guest::Result<()> {
        self.set(true);
        Ok(())
    }
}

impl TargetGuest for Vm {
    fn load_devices(&mut self, state: &mut dyn Read) -> guest::Result<()> {
        state.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    fn run(&mut self) -> guest::Result<()> {
        self.set(true);
        Ok(())
    }
}

pub(crate) fn heading() {
    println!(
        "| memory | populated | took s | rounds | downtime ms | stop | harvest | pages | state | \
         hand-over | own memory of both sides MiB | % of the guest |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
}

pub(crate) fn row(guest: Guest, writes: u64) -> Result<()> {
    let begins_with = own_mib("RssAnon");
    let file = memfd(usize::try_from(guest.size.0)?);
    let listener = "tcp://127.0.0.1:0".parse::<Endpoint>()?.listen()?;
    let memory = Arc::new(FileMemory::whole(file)?);
    let incoming = Incoming::new(listener, memory, Vm::default());
    let link = incoming.address().parse::<Endpoint>()?.connect()?;
    let target = incoming.start()?;

    let vm = Vm::default();
    vm.set(true);
    let most_kib = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&most_kib);
    let outgoing = Outgoing::new(link, guest.ram()?, vm.clone())
        .deadline(LIMIT)
        .delta_cache(DELTA_CACHE)
        .on_status(move |_| {
            let own_kib = (own_mib("RssAnon") - begins_with) * 1024.0;
            seen.fetch_max(own_kib as u64, Ordering::Relaxed);
        });
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| write(&guest, &vm, writes, &over));
        let result = outgoing.start().map(|job| job.wait().result);
        over.store(true, Ordering::Relaxed);
        result
    })?;
    print!("| {} | {} |", guest.size, guest.pattern);
    let report = match result {
        Ok(report) => report,
        Err(failure) => {
            println!(" does not move: {failure} |");
            return Ok(());
        }
    };
    target.wait().result.context("the target")?;
    let parts = report.downtime;
    print!(" {:.2} | {} |", report.total.as_secs_f64(), report.rounds);
    let all = [
        parts.total(),
        parts.stop,
        parts.harvest,
        parts.pages,
        parts.state,
        parts.hand_over,
    ];
    all.iter()
        .for_each(|part| print!(" {:.2} |", part.as_secs_f64() * 1e3));
    let own_mib = most_kib.load(Ordering::Relaxed) as f64 / 1024.0;
    let share = own_mib * f64::from(1 << 20) / guest.size.0 as f64;
    println!(" {own_mib:.0} | {:.3} |", share * 100.0);
    Ok(())
}

/// The guest's vCPU: writes `writes` pages a second, in an order that looks random.
fn write(guest: &Guest, vm: &Vm, writes: u64, over: &AtomicBool) {
    const TICK: Duration = Duration::from_millis(2);
    let each = writes * TICK.as_millis() as u64 / 1000;
    let mut random = 1u64;
    while !over.load(Ordering::Relaxed) {
        {
            let runs = vm.0.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..if *runs { each } else { 0 } {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                let page = (random >> 33) as usize % guest.pages();
                guest.mapping.poke(guest.offset(page), random as u8);
            }
        }
        thread::sleep(TICK);
    }
}
