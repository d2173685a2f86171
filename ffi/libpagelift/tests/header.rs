//! include/pagelift.h is what cbindgen makes of the sources, and C and C++ take it.

mod support;

use std::fs;
use std::path::Path;

use support::{Compiler, here};

fn generated() -> String {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = builder.with_src(here("src/lib.rs"));
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

/// To make it anew: `PAGELIFT_WRITE_HEADER=1 cargo test -p pagelift-ffi --test header`.
#[test]
fn the_header_is_current() {
    let path = here("include/pagelift.h");
    let generated = generated();
    if std::env::var_os("PAGELIFT_WRITE_HEADER").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(
        kept == generated,
        "include/pagelift.h is not what the sources say: make it anew, see tests/header.rs"
    );
}

/// A program that uses nothing of the header but that it can be read, twice.
fn taken_by(compiler: Compiler, standard: &str) {
    let Some(compiler) = compiler.find() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let extension = if standard.starts_with("c++") {
        "cc"
    } else {
        "c"
    };
    let source = folder.path().join("header").with_extension(extension);
    let program = "#include \"pagelift.h\"\n#include \"pagelift.h\"\nint main(void)\n{\n    \
                   pagelift_region region;\n    PAGELIFT_INIT(&region);\n    \
                   return region.struct_size == sizeof region ? PAGELIFT_CODE_OK : 1;\n}\n";
    fs::write(&source, program).unwrap();
    let object = folder.path().join("header.o");
    let arguments = [Path::new("-c"), &source, Path::new("-o"), &object];
    compiler.compile(standard, arguments);
}

#[test]
fn c11_takes_it_without_a_warning() {
    taken_by(Compiler::C, "c11");
}

#[test]
fn cxx17_takes_it_without_a_warning() {
    taken_by(Compiler::Cxx, "c++17");
}
