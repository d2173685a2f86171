//! QEMU's own throttles, led from outside: auto-converge while QEMU moves a busy guest's RAM by
//! itself, and the dirty limit of a KVM guest.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagelift_control::qmp::{Address, Qmp};
use pagelift_control::throttle::{
    Permille, QemuDirtyLimit, QemuParametersThrottle, Shares, Throttle, ThrottleError, ThrottlePlan,
};
use pagelift_tests::{Bed, PATIENCE, Qemu, Run, Workload, guest_images, require};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Everything that could have been changed.
fn settings(qemu: &Qemu) -> Result<(Value, Value)> {
    let parameters = qemu.execute("query-migrate-parameters", json!({}))?;
    let capabilities = qemu.execute("query-migrate-capabilities", json!({}))?;
    Ok((parameters, capabilities))
}

/// Applies a plan for all vCPUs until QEMU says that it is in force; how long that took.
fn hold(throttle: &mut QemuParametersThrottle, permille: u16) -> Result<Duration> {
    let share = Permille::new(permille).expect("below 990");
    let (plan, start) = (ThrottlePlan::suited(Shares::All(share)), Instant::now());
    throttle.apply(&plan)?;
    while throttle.in_force()? != Some(share) {
        ensure!(start.elapsed() < PATIENCE, "{:?}", throttle.in_force()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(start.elapsed())
}

#[test]
fn auto_converge_follows_the_plans_up_and_down() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let workload = Workload {
        fill_bytes: 64 * MIB,
        rate_bytes_per_s: u64::MAX,
        ..Workload::default()
    };
    let machine = Qemu::builder(&bed, &images).workload(&workload);
    let (source, target) = machine.start_pair()?;
    source.wait_ticks(3)?;
    // So that it goes on for as long as the test takes, with syncs in between.
    source.execute(
        "migrate-set-parameters",
        json!({ "max-bandwidth": 60 * MIB, "downtime-limit": 1, "cpu-throttle-initial": 33 }),
    )?;
    let before = settings(&source)?;
    let uri = json!({ "uri": format!("unix:{}", bed.dir().join("move").display()) });
    target.execute("migrate-incoming", uri.clone())?;

    let qmp = Qmp::connect(&Address::Unix(source.qmp_path()))?;
    let mut throttle = QemuParametersThrottle::prepare(&qmp)?;
    source.execute("migrate", uri)?;
    let up = hold(&mut throttle, 600)?;
    let down = hold(&mut throttle, 300)?;
    eprintln!("60 % in force after {up:.1?}, 30 % after {down:.1?}");
    throttle.release();

    source.execute("migrate_cancel", json!({}))?;
    let deadline = Instant::now() + PATIENCE;
    while source.execute("query-migrate", json!({}))?["status"] != "cancelled" {
        ensure!(Instant::now() < deadline, "it is not cancelled");
        std::thread::sleep(Duration::from_millis(20));
    }
    throttle.finish()?;
    assert_eq!(settings(&source)?, before);
    source.wait_ticks(3)?;
    drop((qmp, source, target));
    bed.finish();
    Ok(())
}

#[test]
fn a_throttle_that_is_dropped_puts_the_settings_back() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let qemu = Qemu::builder(&bed, &images).start("qemu")?;
    let qmp = Qmp::connect(&Address::Unix(qemu.qmp_path()))?;
    for on in [false, true] {
        let list = json!([{ "capability": "auto-converge", "state": on }]);
        qemu.execute("migrate-set-capabilities", json!({ "capabilities": list }))?;
        let before = settings(&qemu)?;
        let throttle = QemuParametersThrottle::prepare(&qmp)?;
        assert_ne!(settings(&qemu)?, before);
        assert_eq!(throttle.in_force()?, None);
        drop(throttle);
        assert_eq!(settings(&qemu)?, before);
    }
    drop((qmp, qemu));
    bed.finish();
    Ok(())
}

#[test]
fn a_dirty_limit_takes_a_dirty_ring() -> Result<()> {
    let images = require!(guest_images());
    let bed = Bed::new()?;
    let qemu = Qemu::builder(&bed, &images).start("tcg")?;
    let qmp = Qmp::connect(&Address::Unix(qemu.qmp_path()))?;
    let error = QemuDirtyLimit::new(&qmp).limit(&[Some(100)]);
    let error = error.expect_err("TCG has no dirty ring");
    assert!(matches!(error, ThrottleError::Qemu(_)), "{error}");
    assert!(error.to_string().contains("dirty-ring-size"), "{error}");
    drop((qmp, qemu));

    // The guest need not run.
    let path = bed.dir().join("kvm.qmp");
    let mut command = bed.command("qemu-system-x86_64");
    command
        .args(["-accel", "kvm,dirty-ring-size=4096", "-S", "-nodefaults"])
        .args(["-display", "none", "-m", "64", "-qmp"])
        .arg(format!("unix:{},server=on,wait=off", path.display()));
    let mut kvm = Run::start(&bed, "kvm", command)?;
    let qmp = loop {
        if let Ok(qmp) = Qmp::connect(&Address::Unix(path.clone())) {
            break qmp;
        }
        if kvm.ended()?.is_some() {
            eprintln!("SKIP: no KVM with a dirty ring here: {}", kvm.stderr());
            bed.finish();
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let limits = || qmp.execute("query-vcpu-dirty-limit", Value::Null);
    let mut limit = QemuDirtyLimit::new(&qmp);
    limit.limit(&[None])?;
    assert_eq!(limits()?, json!([]));
    limit.limit(&[Some(100)])?;
    assert_eq!(limits()?[0]["limit-rate"], 100);
    drop(limit);
    assert_eq!(limits()?, json!([]));
    drop((qmp, kvm));
    bed.finish();
    Ok(())
}
