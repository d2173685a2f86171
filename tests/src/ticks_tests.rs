//! The checker against true accounts and against each way in which one can be false.

use super::*;

/// The account of a guest with one thread that writes ten pages in each of ten ticks.
fn account() -> Vec<String> {
    let mut sum = WriteSum::new(1, 0);
    (1..=10)
        .map(|n| {
            let writes = n * 10;
            let sum = sum.advance_to(writes).expect("it only grows");
            format!(
                "tick {n} writes {writes} sum {sum:016x} mono {} bad 0",
                1000 + n * 100
            )
        })
        .collect()
}

fn log(lines: &[String]) -> SerialLog {
    SerialLog::from_text(
        &lines
            .iter()
            .map(|line| format!("{line}\r\n"))
            .collect::<String>(),
    )
}

fn check(lines: &[String]) -> Result<Ticks, TickError> {
    Ticks::check(&Workload::default(), &[log(lines)])
}

#[test]
fn a_true_account_holds_with_other_lines_in_between() {
    let mut lines = account();
    lines.insert(0, "ready 16384".to_owned());
    lines.insert(5, "verified 16384 bad 0".to_owned());
    let ticks = check(&lines).expect("nothing is wrong");
    assert_eq!(ticks.ticks.len(), 10);
    assert_eq!(ticks.longest_gap_guest_ms, 100);
    assert_eq!(ticks.ticks[9].writes_total(), 100);
}

#[test]
fn a_move_may_cut_a_line_anywhere() {
    let text: String = account().iter().map(|line| format!("{line}\r\n")).collect();
    for at in 0..=text.len() {
        let logs = [
            SerialLog::from_text(&text[..at]),
            SerialLog::default(),
            SerialLog::from_text(&text[at..]),
        ];
        let ticks = Ticks::check(&Workload::default(), &logs).expect("nothing is wrong");
        assert_eq!(ticks.ticks.len(), 10, "cut at byte {at}");
        assert_eq!(ticks.count_on(0) + ticks.count_on(2), 10);
    }
}

#[test]
fn a_missing_and_a_repeated_tick_are_found() {
    for (edit, after, next) in [(true, 4, 6), (false, 5, 5)] {
        let mut lines = account();
        if edit {
            lines.remove(4);
        } else {
            lines.insert(5, lines[4].clone());
        }
        assert_eq!(
            check(&lines).expect_err("it is false"),
            TickError::NotConsecutive {
                after,
                next,
                host: 0
            }
        );
    }
}

#[test]
fn a_guest_that_ran_on_both_sides_is_found() {
    let lines = account();
    let logs = [log(&lines[..6]), log(&lines[5..])];
    assert!(matches!(
        Ticks::check(&Workload::default(), &logs),
        Err(TickError::NotConsecutive {
            after: 6,
            next: 6,
            host: 1
        })
    ));
}

#[test]
fn a_wrong_sum_a_wrong_count_and_a_wrong_seed_are_found() {
    let mut wrong_sum = account();
    let [head, tail] = ["writes 40 sum ", " mono"].map(|mark| wrong_sum[3].find(mark));
    let (from, to) = (head.expect("there") + 14, tail.expect("there"));
    let sum = u64::from_str_radix(&wrong_sum[3][from..to], 16).expect("a number");
    wrong_sum[3].replace_range(from..to, &format!("{:016x}", sum ^ 1));
    let mut wrong_count = account();
    wrong_count[3] = wrong_count[3].replace("writes 40", "writes 41");
    for lines in [wrong_sum, wrong_count] {
        assert!(matches!(
            check(&lines),
            Err(TickError::WrongSum {
                tick: 4,
                thread: 0,
                ..
            })
        ));
    }
    let other_seed = Workload {
        seed: 2,
        ..Workload::default()
    };
    assert!(matches!(
        Ticks::check(&other_seed, &[log(&account())]),
        Err(TickError::WrongSum {
            tick: 1,
            thread: 0,
            ..
        })
    ));
}

#[test]
fn time_and_writes_do_not_go_back() {
    let mut lines = account();
    lines[6] = lines[6].replace("mono 1700", "mono 1500");
    assert!(matches!(
        check(&lines),
        Err(TickError::Backwards { tick: 7, .. })
    ));
    let mut lines = account();
    lines[6] = lines[6].replace("writes 70", "writes 59");
    assert!(matches!(
        check(&lines),
        Err(TickError::Backwards { tick: 7, .. })
    ));
}

#[test]
fn what_the_guest_found_itself_is_not_overlooked() {
    let mut lines = account();
    lines.insert(
        2,
        "LOST page 7 thread 0 count 1 word 0 want 1 got 2".to_owned(),
    );
    assert!(matches!(check(&lines), Err(TickError::Lost { .. })));
    let mut lines = account();
    lines[2] = lines[2].replace("bad 0", "bad 1");
    assert_eq!(
        check(&lines).expect_err("it is false"),
        TickError::Bad { tick: 3, bad: 1 }
    );
}

#[test]
fn garbage_and_silence_are_no_account() {
    let mut lines = account();
    lines[1].truncate(30);
    assert!(matches!(check(&lines), Err(TickError::Malformed { .. })));
    assert!(matches!(check(&[]), Err(TickError::Empty)));
    let two_threads = Workload {
        threads: 2,
        ..Workload::default()
    };
    assert!(Ticks::check(&two_threads, &[log(&account())]).is_err());
}
