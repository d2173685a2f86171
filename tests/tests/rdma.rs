//! RDMA on a real verbs stack: soft-RoCE in a small guest of the lab. What runs there is `lab-guest`.

use anyhow::Result;
use pagelift_tests::{Bed, Lab, LabRun, require};

/// A lab with an RDMA device, and the program.
fn lab() -> Lab {
    // A reader that polls and a writer that sends would share one processor in steps of 4 ms.
    let lab = Lab::new(&["rxe"]).cpus(2);
    lab.file(env!("CARGO_BIN_EXE_lab-guest"))
}

fn says(run: &LabRun, words: &[&str]) {
    assert_eq!(run.status, 0, "{}", run.output);
    for word in words {
        assert!(run.output.contains(word), "no {word:?} in:\n{}", run.output);
    }
}

#[test]
fn guests_arrive_whole_by_rdma_with_memory_pinned_on_demand_or_all_at_once() -> Result<()> {
    let bed = Bed::new()?;
    let script = "
        lab-guest both rdma://10.9.0.1:0 32 || exit 1
        lab-guest both 'rdma://10.9.0.1:0?pin-all' 32 || exit 2
        rdma res | grep -q ' mr 0 ctx 0 ' || exit 3
        # TLS has deadlines of ten seconds, which emulation on a busy machine may take.
        export LAB_TOKEN=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        for try in 1 2 3 4 5; do
            lab-guest both rdma://10.9.0.1:0 8 && exit 0
        done
        exit 4";
    let run = require!(lab().run(&bed, script)?);
    says(&run, &["moved 32 MiB", "moved 8 MiB"]);
    bed.finish();
    Ok(())
}

#[test]
fn writes_behind_the_fence_or_by_a_wrong_key_never_land_and_limits_are_named() -> Result<()> {
    let bed = Bed::new()?;
    let script = "
        lab-guest late rdma://10.9.0.1:0 || exit 1
        lab-guest late 'rdma://10.9.0.1:0?pin-all' || exit 2
        lab-guest wrong-key rdma://10.9.0.1:0 || exit 3
        mv /lib/librdmacm.so.1 /tmp
        lab-guest late rdma://10.9.0.1:0 && exit 5
        mv /tmp/librdmacm.so.1 /lib
        ulimit -l 8192
        su nobody -s /bin/sh -c \"lab-guest late 'rdma://10.9.0.1:0?pin-all'\" && exit 4
        exit 0";
    let run = require!(lab().run(&bed, script)?);
    let words = [
        "a late write:",
        "a wrong key:",
        "RLIMIT_MEMLOCK",
        "ulimit -l",
        "install libibverbs1",
    ];
    says(&run, &words);
    bed.finish();
    Ok(())
}

/// Waits until a thousand packets more have come by RDMA.
const COMING: &str = "
    tries=0
    received=/sys/class/infiniband/rxe0/ports/1/hw_counters/rcvd_pkts
    before=$(cat $received)
    until [ $(($(cat $received) - before)) -gt 1000 ]; do
        tries=$((tries + 1)); [ $tries -lt 1200 ] || exit 9
        sleep 0.1
    done";

#[test]
fn a_target_that_is_killed_loses_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let script = format!(
        "lab-guest target rdma://10.9.0.1:7000 128 & target=$!
         sleep 1
         lab-guest source rdma://10.9.0.1:7000 128 >said & source=$!
         {COMING}
         kill -9 $target
         wait $source; status=$?
         cat said
         [ $status = 4 ]"
    );
    let run = require!(lab().run(&bed, &script)?);
    says(&run, &["stayed after"]);
    bed.finish();
    Ok(())
}

#[test]
fn a_guest_moves_between_two_machines_and_a_link_that_is_cut_loses_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let target = format!(
        "lab-guest target rdma://10.9.0.1:7000 16 || exit 1
         lab-guest target rdma://10.9.0.1:7000 128 & target=$!
         {COMING}
         ifconfig $LAB_IF down
         echo cut
         sleep 20
         kill -9 $target; exit 0"
    );
    let source = "
        tries=0
        until ping -c 1 -W 1 10.9.0.1 >/dev/null; do
            tries=$((tries + 1)); [ $tries -lt 60 ] || exit 9
        done
        # A target that does not listen yet refuses.
        again() {
            tries=$((tries + 1)); [ $tries -lt 60 ] || exit 9
            sleep 1
        }
        until lab-guest source rdma://10.9.0.1:7000 16; do again; done
        while lab-guest source rdma://10.9.0.1:7000 128 >said; [ $? = 4 ] || exit 8
            grep -q refused said
        do again; done
        cat said";
    let run = require!(lab().run_two(&bed, &target, source)?);
    says(
        &run,
        &["1| arrived", "2| left", "1| cut", "2| stayed after"],
    );
    bed.finish();
    Ok(())
}
