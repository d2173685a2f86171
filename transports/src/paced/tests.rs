//! The rate over any stretch, and which waiters are woken when.

use std::io::{self, IoSlice, Write};
use std::time::{Duration, Instant};

use pagelift_engine::transport::{Gauge, NoGauge};
use pagelift_engine::units::{ByteCount, Rate};

use super::cap::{Cap, Gate};
use super::pacer::{BURST, Pacer, SLICE_BYTES, SLICE_BYTES_MIN};
use super::send::{PacedGauge, PacedWriter};

fn cap(rate: Option<u64>) -> Cap {
    let cap = Cap::default();
    cap.set(rate.map(Rate));
    cap
}

fn gate(rate: Option<u64>) -> Gate {
    Gate::new(&cap(rate))
}

#[test]
fn without_a_cap_all_is_written_at_once() {
    let cap = cap(None);
    let mut writer = PacedWriter::new(io::sink(), Gate::new(&cap));
    assert_eq!(writer.write(&[0; 1 << 20]).unwrap(), 1 << 20);
    cap.set(Some(Rate(1)));
    assert_eq!(cap.rate(), Some(Rate(1)));
    assert_eq!(writer.write(&[0; 1 << 20]).unwrap(), SLICE_BYTES_MIN);
    cap.set(None);
    assert_eq!(writer.write(&[0; 1 << 20]).unwrap(), 1 << 20);
}

/// A writer behind a cap under which it would wait for minutes. The test hangs if it does.
fn woken_by(act: impl FnOnce(&Cap, &Gate)) {
    let cap = cap(Some(1));
    let gate = Gate::new(&cap);
    let (begun, has_begun) = std::sync::mpsc::channel();
    let mut writer = PacedWriter::new(Vec::new(), gate.clone());
    let thread = std::thread::spawn(move || {
        let first = writer.write(&[0; 4096]).unwrap();
        begun.send(()).unwrap();
        // 512 bytes at one byte a second.
        (first, writer.write(&[0; 4096]).unwrap())
    });
    has_begun.recv().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    act(&cap, &gate);
    let (first, second) = thread.join().unwrap();
    assert_eq!(first, SLICE_BYTES_MIN);
    assert!(second >= SLICE_BYTES_MIN);
}

#[test]
fn a_waiter_is_woken_by_a_change_and_by_the_end() {
    woken_by(|cap, _| cap.set(None));
    woken_by(|cap, _| cap.set(Some(Rate(1 << 40))));
    woken_by(|_, gate| gate.close());
}

#[test]
fn the_rate_holds_over_any_stretch_but_for_one_burst() {
    let start = Instant::now();
    let mut pacer = Pacer::new(Rate(1_000_000), start);
    let mut now = start;
    let mut sent = 0u64;
    for step in 0..2000u64 {
        let bytes = 1 + step * 7919 % 5000;
        now += pacer.take(now, ByteCount(bytes));
        // Now and then the sender has nothing to send for a while.
        if step % 100 == 99 {
            now += Duration::from_millis(20);
        }
        sent += bytes;
        let allowed = 1e6 * (now.duration_since(start) + BURST).as_secs_f64() + 5000.0;
        assert!(sent as f64 <= allowed, "step {step}: {sent} of {allowed}");
    }
    let fastest = 1e6 * now.duration_since(start).as_secs_f64();
    assert!(
        sent as f64 > fastest * 0.8,
        "{sent} of {fastest}: the cap is also reached"
    );
}

#[test]
fn a_slow_link_is_shared_in_small_slices() {
    for (rate, bytes) in [(1, 512), (250_000, 2500), (1 << 40, SLICE_BYTES)] {
        let mut writer = PacedWriter::new(io::sink(), gate(Some(rate)));
        assert_eq!(writer.write(&[0; 1 << 20]).unwrap(), bytes);
    }
}

#[test]
fn all_bytes_pass_in_order() {
    let mut writer = PacedWriter::new(Vec::new(), gate(Some(1 << 40)));
    let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let mut rest = &data[..];
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(rest.len() / 3);
        let written = writer
            .write_vectored(&[IoSlice::new(head), IoSlice::new(tail)])
            .unwrap();
        rest = &rest[written..];
    }
    assert_eq!(writer.inner, data);
}

#[test]
fn what_a_cap_holds_back_counts_as_held() {
    let rate = Rate(1_000_000);
    let cap = cap(Some(rate.0));
    let mut gauge = PacedGauge::new(Box::new(NoGauge), cap.clone());
    assert_eq!(gauge.cap(), Some(rate));
    let mut writer = PacedWriter::new(io::sink(), Gate::new(&cap));
    assert!(writer.write(&[0; 1 << 20]).unwrap() > 0);
    let held = gauge.look().unwrap();
    assert_eq!(held.bytes, held.room_bytes, "as much as there is room for");
    cap.set(None);
    assert_eq!((gauge.look(), gauge.cap()), (None, None));
}
