//! The interface of a version does not change: sizes, offsets, values, types of functions and the symbols
//! of the library are kept in abi/MAJOR.MINOR.
//!
//! Who changes the header raises PAGELIFT_ABI_MINOR (something was added) or PAGELIFT_ABI_MAJOR, the
//! SONAME and the name in libpagelift.map (anything else), and keeps the new interface:
//! `PAGELIFT_WRITE_ABI=1 cargo test -p pagelift-ffi --test abi`.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use support::{Compiler, Found, here, succeeded};

/// What the header declares.
#[derive(Default)]
struct Header {
    constants: Vec<String>,
    /// Each with its fields.
    structures: Vec<(String, Vec<String>)>,
    /// Types of callbacks.
    types: Vec<String>,
    functions: Vec<String>,
}

/// The name that a declaration is about: `int (*name)(...)`, `char name[...]`, `type *name`.
fn declared(declaration: &str) -> &str {
    let pointer = declaration.split_once("(*").map(|(_, rest)| rest);
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    match pointer {
        Some(rest) => rest.split(|letter| !is_name(letter)).next().unwrap(),
        None => {
            let end = declaration.find(['(', '[']).unwrap_or(declaration.len());
            declaration[..end]
                .rsplit(|letter| !is_name(letter))
                .next()
                .unwrap()
        }
    }
}

impl Header {
    /// Reads what cbindgen writes, which is regular.
    fn read(text: &str) -> Self {
        let mut header = Self::default();
        let mut fields = None;
        let mut statement = String::new();
        // Macros go over lines that end with a backslash.
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim) {
            if line.starts_with("//") || line.is_empty() {
                continue;
            }
            if let Some(rest) = line.strip_prefix("#define ") {
                let number = rest.split_once(' ');
                if let Some((name, _)) = number.filter(|(_, value)| value.parse::<u64>().is_ok()) {
                    header.constants.push(name.to_owned());
                }
            } else if line.starts_with("typedef struct") && line.ends_with('{') {
                fields = Some(Vec::new());
            } else if let (Some((name, _)), true) = (line.split_once(" = "), line.ends_with(',')) {
                header.constants.push(name.to_owned());
            } else if !line.starts_with(['#', '{']) && !line.starts_with("enum ") {
                statement += if statement.is_empty() { "" } else { " " };
                statement += line;
                let Some(whole) = statement.strip_suffix(';').map(str::to_owned) else {
                    if !statement.contains('(') {
                        statement.clear();
                    }
                    continue;
                };
                statement.clear();
                match (&mut fields, whole.strip_prefix("} ")) {
                    (Some(_), Some(name)) => {
                        let fields = fields.take().unwrap();
                        header.structures.push((name.to_owned(), fields));
                    }
                    (Some(fields), None) => fields.push(whole),
                    (None, _) if whole.starts_with("typedef ") && whole.contains('(') => {
                        header.types.push(whole["typedef ".len()..].to_owned());
                    }
                    (None, _) if whole.contains('(') => header.functions.push(whole),
                    (None, _) => {}
                }
            }
        }
        header
    }

    /// A program that prints the interface, one line for each thing.
    fn printer(&self) -> String {
        let mut program =
            "#include \"pagelift.h\"\n#include <stdio.h>\nint main(void)\n{\n".to_owned();
        for name in &self.constants {
            writeln!(
                program,
                "    printf(\"constant {name} %lld\\n\", (long long)({name}));"
            )
            .unwrap();
        }
        for (name, fields) in &self.structures {
            writeln!(
                program,
                "    printf(\"size {name} %zu\\n\", sizeof({name}));"
            )
            .unwrap();
            for field in fields {
                let field_name = declared(field);
                writeln!(
                    program,
                    "    printf(\"field {name} %zu %zu {field}\\n\", offsetof({name}, {field_name}), \
                     sizeof((({name} *)0)->{field_name}));"
                )
                .unwrap();
            }
        }
        program + "    return 0;\n}\n"
    }

    fn names(&self) -> BTreeSet<&str> {
        self.functions
            .iter()
            .map(|function| declared(function))
            .collect()
    }
}

fn header() -> Header {
    Header::read(&fs::read_to_string(here("include/pagelift.h")).unwrap())
}

/// The interface as text.
fn interface(header: &Header, compiler: &Found) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("abi.c"), folder.path().join("abi"));
    fs::write(&source, header.printer()).unwrap();
    let arguments = [source.as_os_str(), "-o".as_ref(), program.as_os_str()];
    compiler.compile("c11", arguments);
    let printed = succeeded(&mut Command::new(program)).stdout;
    let mut text = String::from_utf8(printed).unwrap();
    for declaration in &header.types {
        writeln!(text, "type {declaration}").unwrap();
    }
    for function in &header.functions {
        writeln!(text, "function {function}").unwrap();
    }
    text
}

/// The value of a constant.
fn value<'a>(interface: &'a str, name: &str) -> &'a str {
    let prefix = format!("constant {name} ");
    let found = interface
        .lines()
        .find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_interface_is_that_of_its_version() {
    let Some(compiler) = Compiler::C.find() else {
        return;
    };
    let now = interface(&header(), &compiler);
    let (major, minor) = (
        value(&now, "PAGELIFT_ABI_MAJOR"),
        value(&now, "PAGELIFT_ABI_MINOR"),
    );
    let kept = here("abi").join(format!("{major}.{minor}"));
    if std::env::var_os("PAGELIFT_WRITE_ABI").is_some() {
        fs::write(&kept, &now).unwrap();
    }
    let before = fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        before == now,
        "the interface is not the one of version {major}.{minor}, which is kept in {}: raise the \
         version, see tests/abi.rs\n{now}",
        kept.display()
    );
    // A minor version only adds.
    for older in 0..minor.parse::<u32>().unwrap() {
        let older = fs::read_to_string(here("abi").join(format!("{major}.{older}"))).unwrap();
        let stays = |line: &&str| !line.starts_with("size ") && !line.contains("_ABI_MINOR ");
        for line in older.lines().filter(stays) {
            assert!(now.lines().any(|other| other == line), "is gone: {line}");
        }
    }
}

/// A field that is added could otherwise lie in what an older header takes for padding.
#[test]
fn no_structure_has_padding() {
    let Some(compiler) = Compiler::C.find() else {
        return;
    };
    let interface = interface(&header(), &compiler);
    let mut end = 0;
    let mut checked = 0;
    let number = |text: &str| text.parse::<usize>().unwrap();
    for line in interface.lines().chain(["size end 0"]) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["size", name, size] => {
                assert_eq!(end, 0, "before {name}: bytes at the end");
                end = number(size);
            }
            ["field", name, offset, size, ..] => {
                let (offset, size) = (number(offset), number(size));
                assert!(offset + size <= end);
                let next = interface.lines().skip_while(|other| *other != line).nth(1);
                let next = next.filter(|next| next.starts_with("field "));
                let after = next.map_or(end, |next| number(next.split(' ').nth(2).unwrap()));
                assert_eq!(offset + size, after, "{name}: padding after {line}");
                if after == end {
                    end = 0;
                }
                checked += 1;
            }
            _ => {}
        }
    }
    assert!(checked > 50, "{checked} fields");
}

#[test]
fn the_version_script_has_the_functions_of_the_header() {
    let header = header();
    let script = fs::read_to_string(here("libpagelift.map")).unwrap();
    let listed: BTreeSet<&str> = script
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';'))
        .filter(|name| name.starts_with("pagelift_"))
        .collect();
    assert_eq!(listed, header.names());
    let major = format!("PAGELIFT_{} {{", support::ABI_MAJOR);
    assert!(script.contains(&major), "{script}");
}
