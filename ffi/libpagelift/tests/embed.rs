//! The example in C, as a user builds it, and with the compiler's sanitizers.
//!
//! Valgrind cannot run it: it takes away the vDSO, which rustix then reads, and knows neither
//! userfaultfd nor PAGEMAP_SCAN.

mod support;

use std::process::Command;

use support::{Compiler, here, succeeded};

/// Runs the program of the example, and gives what both sides print.
fn moved(program: &std::path::Path) -> String {
    let ran = succeeded(Command::new("timeout").arg("120").arg(program));
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("round 1\n"), "{said}");
    assert!(said.contains("verified 1\n"), "{said}");
    assert!(said.contains("source: exit status 0\n"), "{said}");
    String::from_utf8(ran.stderr).unwrap()
}

#[test]
fn a_guest_moves_between_two_processes() {
    let Some(compiler) = Compiler::C.find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("embed");
    compiler.program("c11", &[here("examples/embed.c")], &program);
    assert_eq!(moved(&program), "");
}

#[test]
fn the_sanitizers_find_no_error_and_no_leak() {
    let Some(compiler) = Compiler::C.find() else {
        return;
    };
    if !compiler.has_sanitizers() {
        println!("SKIP: the C compiler has no sanitizers here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("embed");
    compiler.checked_program("c11", &[here("examples/embed.c")], &program);
    assert_eq!(moved(&program), "");
}

/// The lines of `text`, without what indents them.
fn unindented(text: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    lines.fold(String::new(), |all, line| all + line + "\n")
}

#[test]
fn the_code_in_the_walk_through_is_code_that_runs() {
    let guide = include_str!("../../../docs/embedding.md");
    let source = unindented(include_str!("../examples/embed.c"));
    let snippets: Vec<_> = guide.split("```c\n").skip(1).collect();
    assert!(snippets.len() >= 6, "{} snippets", snippets.len());
    for snippet in snippets {
        let (code, _) = snippet.split_once("```").expect("a block that ends");
        let code = unindented(code);
        assert!(source.contains(&code), "not in the example:\n{code}");
    }
}
