//! The documented command puts everything in place, and a program outside of the tree finds it.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{ABI_MAJOR, Compiler, here, program, static_library, succeeded};

/// Runs `install` with the library that was built for the tests.
fn installed(root: &Path) {
    let mut install = Command::new(here("install"));
    install.arg("--library").arg(static_library());
    install.env("DESTDIR", root).env("PREFIX", "/usr");
    install.env_remove("LIBDIR");
    succeeded(&mut install);
}

#[test]
fn a_program_outside_of_the_tree_links_by_pkg_config_and_runs() {
    let (Some(_), Some(pkg_config)) = (Compiler::C.find(), program("pkg-config")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    installed(folder.path());
    fs::copy(here("examples/embed.c"), folder.path().join("embed.c")).unwrap();
    let libraries = folder.path().join("usr/lib");
    for flags in ["--libs", "--static --libs"] {
        let mut build = Command::new("sh");
        build.current_dir(folder.path()).arg("-c").arg(format!(
            "${{CC:-cc}} -std=c11 -Wall -Wextra -Werror -pedantic embed.c $({pkg_config} --cflags {flags} \
             pagelift) -o embed"
        ));
        build.env("PKG_CONFIG_LIBDIR", libraries.join("pkgconfig"));
        build.env("PKG_CONFIG_SYSROOT_DIR", folder.path());
        succeeded(&mut build);
        let mut run = Command::new("timeout");
        run.arg("60").arg(folder.path().join("embed"));
        run.env("LD_LIBRARY_PATH", &libraries);
        let ran = succeeded(&mut run);
        let said = String::from_utf8(ran.stdout).unwrap();
        assert!(said.contains("arrived: "), "{said}");
        // Nothing but what the header declares, with the version.
        let mut list = Command::new("nm");
        list.args(["-D", "--defined-only"])
            .arg(libraries.join("libpagelift.so"));
        let symbols = String::from_utf8(succeeded(&mut list).stdout).unwrap();
        let version = format!("@@PAGELIFT_{ABI_MAJOR}");
        let mut count = 0;
        for symbol in symbols.lines().filter_map(|line| line.split(' ').nth(2)) {
            if symbol != format!("PAGELIFT_{ABI_MAJOR}") {
                assert!(
                    symbol.starts_with("pagelift_") && symbol.ends_with(&version),
                    "{symbol}"
                );
                count += 1;
            }
        }
        let listed = fs::read_to_string(here("libpagelift.map")).unwrap();
        assert_eq!(count, listed.matches("    pagelift_").count());
    }
    let soname = format!("libpagelift.so.{ABI_MAJOR}");
    let mut needs = Command::new("readelf");
    needs.arg("-d").arg(libraries.join("libpagelift.so"));
    let dynamic = String::from_utf8(succeeded(&mut needs).stdout).unwrap();
    assert!(
        dynamic.contains(&format!("soname: [{soname}]")),
        "{dynamic}"
    );
}

#[test]
fn an_unknown_argument_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut install = Command::new(here("install"));
    install.arg("--help").env("DESTDIR", folder.path());
    assert_eq!(install.output().unwrap().status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
