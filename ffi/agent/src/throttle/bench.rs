//! What the period of a throttle costs and what it gives: run by hand, on a machine at rest,
//!
//! ```text
//! cargo test --release -p pagelift-agent periods -- --ignored --nocapture
//! ```
//!
//! A thread computes and notes how long it was kept from that at a time: what a guest's own
//! latency would be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use pagelift_agent_protocol::{Lease, ThreadShare, ThrottleRequest};

use super::{ThreadThrottler, timer};

/// What a thread got done.
struct Done {
    /// Pieces of work, all of one size.
    pieces: u64,
    cpu_s: f64,
    time_s: f64,
    /// Gaps between two pieces, in microseconds, the longest last.
    gaps_us: Vec<f64>,
}

/// Gaps below this are the work itself.
const GAP: Duration = Duration::from_micros(40);

fn work(time: Duration) -> Done {
    let (start, cpu_ns) = (Instant::now(), timer::thread_cpu_ns());
    let (mut pieces, mut gaps_us, mut last) = (0, Vec::with_capacity(1 << 20), start);
    let mut x = 1u64;
    while last - start < time {
        for _ in 0..2000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        pieces += 1;
        let now = Instant::now();
        if now - last > GAP {
            gaps_us.push((now - last).as_secs_f64() * 1e6);
        }
        last = now;
    }
    gaps_us.sort_by(f64::total_cmp);
    Done {
        pieces,
        cpu_s: (timer::thread_cpu_ns() - cpu_ns) as f64 / 1e9,
        time_s: (last - start).as_secs_f64(),
        gaps_us,
    }
}

#[test]
#[ignore = "a measurement; see the module"]
fn periods() {
    let time = Duration::from_millis(1500);
    let free = work(time);
    let speed = free.pieces as f64 / free.cpu_s;
    println!("share  period us  got   work per CPU s  stop p50 us  p99 us  longest us");
    for permille in [100, 300, 500, 800, 900, 950, 990] {
        for period_us in [500, 1000, 2000, 5000, 10_000, 20_000, 50_000] {
            let (tell, tid) = channel();
            let go = Arc::new(AtomicBool::new(false));
            let waits = Arc::clone(&go);
            let worker = thread::spawn(move || {
                tell.send(timer::own_tid()).unwrap();
                while !waits.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                work(time)
            });
            let mut throttler = ThreadThrottler::default();
            let thread = ThreadShare {
                tid: tid.recv().unwrap(),
                stopped_permille: permille,
            };
            let lease = Lease::new(60_000).unwrap();
            let throttle = ThrottleRequest::new(vec![thread], period_us, lease).unwrap();
            throttler.apply(&throttle).unwrap();
            go.store(true, Ordering::Release);
            let done = worker.join().unwrap();
            throttler.release();
            let gap = |part: f64| {
                let last = done.gaps_us.len().saturating_sub(1);
                let index = (last as f64 * part) as usize;
                done.gaps_us.get(index).copied().unwrap_or(0.0)
            };
            println!(
                "{permille:5}  {period_us:9}  {:.3}  {:14.3}  {:11.0}  {:6.0}  {:10.0}",
                1.0 - done.cpu_s / done.time_s,
                done.pieces as f64 / done.cpu_s / speed,
                gap(0.5),
                gap(0.99),
                gap(1.0),
            );
        }
    }
}
