//! Compilers, the library, and programs in C, for the tests.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Warnings that are errors in what the tests compile.
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// What notices bad accesses, leaks and undefined behaviour.
const SANITIZERS: &str = "-fsanitize=address,undefined";

/// The major version of the interface: in the SONAME and in the version of the symbols.
pub(crate) const ABI_MAJOR: u32 = 1;

/// A file of this crate.
pub(crate) fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The static library that cargo has built for this test: it is beside it.
pub(crate) fn static_library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libpagelift_ffi.a");
    assert!(library.exists(), "{} is not there", library.display());
    library
}

/// What the static library takes of the system.
pub(crate) const SYSTEM_LIBRARIES: [&str; 5] = ["-lgcc_s", "-lpthread", "-ldl", "-lm", "-lrt"];

/// A language.
#[derive(Clone, Copy)]
pub(crate) enum Compiler {
    C,
    Cxx,
}

/// The compiler of a language.
pub(crate) struct Found(String);

impl Compiler {
    /// The compiler, unless there is none: the test is then skipped.
    pub(crate) fn find(self) -> Option<Found> {
        let (variable, usual) = match self {
            Self::C => ("CC", "cc"),
            Self::Cxx => ("CXX", "c++"),
        };
        let name = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
        program(&name).map(Found)
    }
}

/// The name of a program, unless it is not there: the test is then skipped.
pub(crate) fn program(name: &str) -> Option<String> {
    if Command::new(name).arg("--version").output().is_ok() {
        return Some(name.to_owned());
    }
    println!("SKIP: there is no {name}");
    None
}

impl Found {
    /// Compiles with all warnings as errors, and the header of this crate.
    pub(crate) fn compile<S: AsRef<OsStr>>(
        &self,
        standard: &str,
        arguments: impl IntoIterator<Item = S>,
    ) {
        let mut command = Command::new(&self.0);
        command.args(STRICT).arg(format!("-std={standard}"));
        command.arg("-I").arg(here("include")).args(arguments);
        succeeded(&mut command);
    }

    /// A program, linked with the static library.
    pub(crate) fn program(&self, standard: &str, sources: &[PathBuf], program: &Path) {
        self.linked(standard, sources, program, &[]);
    }

    /// The same, with the sanitizers for addresses, leaks and undefined behaviour, where they are there.
    pub(crate) fn checked_program(&self, standard: &str, sources: &[PathBuf], program: &Path) {
        let sanitizers: &[&str] = match self.has_sanitizers() {
            true => &[SANITIZERS, "-fno-sanitize-recover=all"],
            false => &[],
        };
        self.linked(standard, sources, program, sanitizers);
    }

    /// Whether a program with the sanitizers can be built and run here.
    pub(crate) fn has_sanitizers(&self) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("empty.c"), folder.path().join("empty"));
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let mut compile = Command::new(&self.0);
        compile.arg(SANITIZERS).arg(&source).arg("-o").arg(&program);
        let built = compile.output().is_ok_and(|output| output.status.success());
        built
            && Command::new(program)
                .output()
                .is_ok_and(|output| output.status.success())
    }

    fn linked(&self, standard: &str, sources: &[PathBuf], program: &Path, more: &[&str]) {
        let mut arguments: Vec<PathBuf> = more.iter().map(PathBuf::from).collect();
        arguments.extend_from_slice(sources);
        arguments.extend(["-g".into(), static_library(), "-o".into()]);
        arguments.push(program.into());
        arguments.extend(SYSTEM_LIBRARIES.iter().map(PathBuf::from));
        self.compile(standard, arguments);
    }
}

/// Runs a command that must succeed.
pub(crate) fn succeeded(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{complained}",
        output.status
    );
    output
}
