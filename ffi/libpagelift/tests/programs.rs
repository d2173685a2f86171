//! Programs in C whose cases are tests: each runs in a process of its own, checked by the compiler's
//! sanitizers where it has them.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use support::{Compiler, here};

/// Runs a case of a program, which is built once.
fn run(built: &OnceLock<Option<PathBuf>>, name: &str, case: &str) {
    let built = built.get_or_init(|| {
        let compiler = Compiler::C.find()?;
        // Cargo's own folder: nobody knows when the last case has run.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let program = folder.path().join(name);
        let source = here("tests/c").join(name).with_extension("c");
        compiler.checked_program("c11", &[source], &program);
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libpagelift-{name}"));
        std::fs::rename(program, &kept).unwrap();
        Some(kept)
    });
    let Some(program) = built else {
        println!("SKIP: there is no C compiler");
        return;
    };
    let mut command = Command::new("timeout");
    let ran = command.arg("120").arg(program).arg(case).output().unwrap();
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{}: {complained}", ran.status);
    assert!(!complained.contains("Sanitizer"), "{complained}");
}

/// Tests of the cases of a program.
macro_rules! cases {
    ($program:ident: $($case:ident,)*) => {
        mod $program {
            use super::*;

            static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();

            $(#[test]
            fn $case() {
                run(&BUILT, stringify!($program), stringify!($case));
            })*

            #[test]
            fn all_cases_are_run() {
                let listed = [$(stringify!($case)),*];
                let source = std::fs::read_to_string(
                    here("tests/c").join(concat!(stringify!($program), ".c")),
                );
                let source = source.unwrap();
                let named = source.lines().filter_map(|line| line.trim().strip_prefix("{\""));
                let named: Vec<_> = named.filter_map(|line| line.split('"').next()).collect();
                assert_eq!(named, listed);
            }
        }
    };
}

cases! {
    moves:
    by_default_in_a_file,
    private_memory_by_page_tables,
    by_bitmaps,
    private_memory_by_bitmaps,
    by_callbacks,
    by_callbacks_and_page_tables,
    another_token_does_not_get_in,
}

cases! {
    misuse:
    null_is_an_error,
    what_is_no_handle_is_noticed,
    a_freed_handle_is_noticed,
    structures_say_their_size,
    regions_are_checked,
    memory_that_is_not_there_cannot_be_moved,
    a_machine_is_checked,
    security_is_checked,
    calls_in_the_wrong_order_do_nothing,
    options_and_limits_are_checked,
    addresses_are_checked,
    a_callback_that_fails_ends_the_migration,
    guests_that_differ_are_refused,
    a_callback_may_call_back_but_not_wait,
    a_migration_can_be_cancelled_at_any_time,
    a_job_that_is_freed_is_cancelled,
    a_job_starts_whole_or_not_at_all,
}
