//! The lab itself: a script's status comes back, and what did not run is no success.

use anyhow::{Result, bail};
use pagelift_tests::{Bed, Lab, require};

#[test]
fn a_guest_has_the_modules_and_files_it_was_promised_and_its_status_comes_back() -> Result<()> {
    let bed = Bed::new()?;
    let word = bed.dir().join("word");
    std::fs::write(&word, "a word")?;
    let lab = Lab::new(&["rxe", "netem", "tls", "vhost", "vsock"]).file(word);
    let script = "
        cat /lab/word; echo
        grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state || exit 1
        [ -c /dev/infiniband/uverbs0 ] && [ -c /dev/infiniband/rdma_cm ] || exit 2
        /bin/tc qdisc add dev $LAB_IF root netem delay 1ms || exit 3
        [ -c /dev/vhost-net ] && [ -c /dev/vsock ] || exit 4
        cat /proc/sys/net/ipv4/tcp_available_ulp
        exit 7";
    let run = require!(lab.run(&bed, script)?);
    assert_eq!(run.status, 7, "{}", run.output);
    assert!(run.output.contains("a word"), "{}", run.output);
    assert!(run.output.contains("tls"), "{}", run.output);
    bed.finish();
    Ok(())
}

#[test]
fn two_guests_hear_each_other_and_either_may_fail() -> Result<()> {
    let bed = Bed::new()?;
    let ping = |other: &str| {
        format!(
            "tries=0
             until ping -c 1 -W 1 {other}; do
                 tries=$((tries + 1)); [ $tries -lt 60 ] || exit 9
             done
             sleep 1"
        )
    };
    let second = ping("10.9.0.1") + "; exit 6";
    let run = require!(Lab::default().run_two(&bed, &ping("10.9.0.2"), &second)?);
    assert_eq!(run.status, 6, "{}", run.output);
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_that_dies_or_cannot_be_set_up_is_no_success() -> Result<()> {
    let bed = Bed::new()?;
    for (lab, script, said) in [
        (Lab::default(), "poweroff -f", "102"),
        (Lab::new(&["nonsense"]), "exit 0", "103"),
    ] {
        match lab.run(&bed, script) {
            Err(error) => assert!(error.to_string().contains(said), "{error}"),
            Ok(Ok(run)) => bail!("{run:?}"),
            Ok(Err(why)) => {
                let lacking: Result<(), _> = Err(why);
                require!(lacking);
            }
        }
    }
    bed.finish();
    Ok(())
}
