//! Where the time goes while the guest is stopped, with nothing to copy. Prints, asserts order.
//!
//! The two QEMUs share one RAM file, so what is left is the hand-over itself.

#![cfg(target_os = "linux")]

mod host;

use std::time::{SystemTime, UNIX_EPOCH};

use host::handover::{Relay, prepared};
use host::{LIMIT, RAM_BYTES, TestQemu, has_qemu};
use pagelift_control::driver::qemu::TargetQemu;
use pagelift_control::driver::qemu::return_path::Shut;
use pagelift_control::qmp::Timestamp;

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(since_epoch.as_micros()).unwrap())
}

/// The moments of one hand-over, in their order, with the name of what ends there.
fn moments(machine: &str) -> (Vec<(&'static str, Timestamp)>, u64) {
    let ram = TestQemu::ram_path();
    let object = format!(
        "memory-backend-file,id=pc.ram,size={RAM_BYTES},mem-path={},share=on",
        ram.display()
    );
    let machine = format!("{machine},memory-backend=pc.ram");
    let arguments = ["-object", &object, "-machine", &machine, "-vga", "std"];
    let source = TestQemu::start_bare(ram.clone(), &arguments);
    let target = TestQemu::start_bare(ram, &[&arguments[..], &["-incoming", "defer"]].concat());

    let held = TargetQemu::connect(&target.address())
        .unwrap()
        .hold()
        .unwrap();
    let prepared = prepared(&source);
    let (loading, target_stream) = held.begin_incoming().unwrap();
    let (switching, source_stream) = prepared.begin_switchover().unwrap();
    let Relay { verdict, bytes } = Relay::start(source_stream, target_stream);
    let paused = switching.wait_paused(LIMIT).unwrap();
    let paused_at = now();
    let stopped_at = paused.stopped_at().unwrap();
    let handing = paused.continue_device_state().unwrap();
    let continued_at = now();
    assert_eq!(verdict.join().unwrap(), Some(Shut { error: 0 }));
    let verdict_at = now();
    let loaded = loading.wait_loaded(LIMIT).unwrap();
    let loaded_at = now();
    let over = handing.commit().unwrap();
    let committed_at = now();
    let running = loaded.run(false).unwrap();
    let resumed_at = running.resumed_at().unwrap();
    let moments = vec![
        ("", stopped_at),
        ("pre-switchover seen", paused_at),
        ("migrate-continue answered", continued_at),
        ("device state sent and loaded (SHUT)", verdict_at),
        ("target's completed seen", loaded_at),
        ("SHUT passed on, source's completed seen", committed_at),
        ("cont, until RESUME", resumed_at),
    ];
    running.finish().unwrap();
    over.finish().unwrap();
    (moments, bytes.join().unwrap().unwrap())
}

#[test]
fn parts_of_the_blackout() {
    if !has_qemu() {
        return;
    }
    for machine in ["pc", "pc,suppress-vmdesc=on"] {
        for _ in 0..3 {
            let (moments, stream_bytes) = moments(machine);
            eprintln!("-machine {machine}: QEMU's stream had {stream_bytes} bytes");
            for pair in moments.windows(2) {
                let micros = pair[1].1.micros_since(pair[0].1);
                assert!(
                    micros >= 0,
                    "the clock is one, the steps follow one another"
                );
                eprintln!("  {micros:>7} us  {}", pair[1].0);
            }
            let whole = moments[moments.len() - 1].1.micros_since(moments[0].1);
            eprintln!("  {whole:>7} us  from STOP to RESUME");
        }
    }
}
