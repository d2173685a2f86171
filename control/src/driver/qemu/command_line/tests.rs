//! Tables of command lines, before and after.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;

use proptest::prelude::*;

use super::*;

mod refusals;

/// Hands out descriptors 100, 101, ... and remembers what for.
#[derive(Default)]
struct FakeHost {
    files: Vec<MemoryFile>,
    configs: HashMap<&'static str, &'static str>,
    has_no_memory: bool,
}

impl Host for FakeHost {
    fn create_memory(&mut self, file: &MemoryFile) -> io::Result<String> {
        if self.has_no_memory {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.files.push(file.clone());
        Ok(format!("/proc/self/fd/{}", 99 + self.files.len()))
    }

    fn read_config(&mut self, path: &str) -> io::Result<String> {
        let text = self.configs.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok((*text).to_owned())
    }
}

fn args(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn rewrite(line: &str) -> (String, Vec<MemoryFile>, Vec<String>) {
    let mut host = FakeHost::default();
    let rewritten = make_shareable(&args(line), &mut host).unwrap();
    let words: Vec<_> = rewritten
        .args
        .iter()
        .map(|arg| arg.to_str().unwrap())
        .collect();
    (words.join(" "), host.files, rewritten.warnings)
}

const OBJECT: &str = "-object memory-backend-file,id=pc.ram";

#[test]
fn ram_without_a_backend_gets_one_of_its_size() {
    let table: &[(&str, &str, u64)] = &[
        ("", "-machine memory-backend=pc.ram", 128 << 20),
        ("-m 64", "-m 64 -machine memory-backend=pc.ram", 64 << 20),
        (
            "-M pc -m size=1G,slots=2,maxmem=4G",
            "-M pc,memory-backend=pc.ram -m size=1G,slots=2,maxmem=4G",
            1 << 30,
        ),
        (
            "--machine q35,accel=kvm -S --m 1.5G",
            "--machine q35,accel=kvm,memory-backend=pc.ram -S --m 1.5G",
            3 << 29,
        ),
        (
            "-m 0 -machine type=pc",
            "-m 0 -machine type=pc,memory-backend=pc.ram",
            128 << 20,
        ),
        (
            "-m 1025k",
            "-m 1025k -machine memory-backend=pc.ram",
            1_056_768,
        ),
        (
            "-m 64 -M pc -m maxmem=1G -M accel=tcg",
            "-m 64 -M pc -m maxmem=1G -M accel=tcg,memory-backend=pc.ram",
            64 << 20,
        ),
        (
            "-m 64 -m 96 -name -m disk.img",
            "-m 64 -m 96 -name -m disk.img -machine memory-backend=pc.ram",
            96 << 20,
        ),
        (
            "-numa node,cpus=0,nodeid=0,mem=64 -m 64 -incoming defer",
            "-numa node,cpus=0,nodeid=0,mem=64 -m 64 -incoming defer \
             -machine memory-backend=pc.ram",
            64 << 20,
        ),
        (
            "-m 64 -object rng-random,id=r -device virtio-rng,rng=r",
            "-m 64 -object rng-random,id=r -device virtio-rng,rng=r \
             -machine memory-backend=pc.ram",
            64 << 20,
        ),
    ];
    for &(before, after, size_bytes) in table {
        let (line, files, warnings) = rewrite(before);
        let object = format!("{OBJECT},size={size_bytes},mem-path=/proc/self/fd/100,share=on");
        assert_eq!(line, format!("{after} {object}"));
        let expected = MemoryFile {
            id: "pc.ram".into(),
            size_bytes,
            huge_pages: None,
        };
        assert_eq!(files, [expected]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn mem_path_becomes_a_backend_on_that_path() {
    let (line, files, warnings) = rewrite("-S -mem-path /dev/hugepages -mem-prealloc -m 1G -s");
    assert_eq!(
        line,
        format!(
            "-S -mem-prealloc -m 1G -s -machine memory-backend=pc.ram \
             {OBJECT},size=1073741824,mem-path=/dev/hugepages,share=on"
        )
    );
    assert!(files.is_empty());
    assert!(warnings[0].contains("/dev/hugepages"));
}

#[test]
fn backends_without_a_name_get_a_memfd_and_keep_their_properties() {
    let fd = "mem-path=/proc/self/fd/100";
    let table = [
        (
            "memory-backend-ram,id=m0,size=64M,host-nodes=0-1,policy=bind",
            format!("memory-backend-file,id=m0,size=64M,host-nodes=0-1,policy=bind,{fd},share=on"),
        ),
        (
            "size=64M,id=m0,qom-type=memory-backend-ram,share=off,prealloc=on",
            format!("size=64M,id=m0,qom-type=memory-backend-file,share=on,prealloc=on,{fd}"),
        ),
        (
            "memory-backend-memfd,id=m0,size=67108864,seal=off,share=on",
            format!("memory-backend-file,id=m0,size=67108864,share=on,{fd}"),
        ),
        (
            "memory-backend-shm,id=m0,size=64M",
            format!("memory-backend-file,id=m0,size=64M,{fd},share=on"),
        ),
        (
            r#"{"qom-type":"memory-backend-ram","id":"m0","size":67108864,"host-nodes":[0]}"#,
            concat!(
                r#"{"host-nodes":[0],"id":"m0","mem-path":"/proc/self/fd/100","#,
                r#""qom-type":"memory-backend-file","share":true,"size":67108864}"#
            )
            .to_owned(),
        ),
    ];
    for (before, after) in table {
        let (line, files, _) = rewrite(&format!("-M pc,memory-backend=m0 -object {before} -m 64"));
        assert_eq!(
            line,
            format!("-M pc,memory-backend=m0 -object {after} -m 64")
        );
        assert_eq!(files.len(), 1, "{before}");
        assert_eq!(files[0].size_bytes, 64 << 20);
        assert_eq!(files[0].huge_pages, None);
    }
}

#[test]
fn huge_pages_move_from_the_backend_to_the_memfd() {
    let table = [
        ("hugetlb=on", Some(HugePages::Default)),
        (
            "hugetlb=on,hugetlbsize=2M",
            Some(HugePages::OfBytes(2 << 20)),
        ),
        (
            "hugetlb=on,hugetlbsize=1G",
            Some(HugePages::OfBytes(1 << 30)),
        ),
        ("hugetlb=off,hugetlbsize=2M", None),
    ];
    for (properties, huge_pages) in table {
        let (line, files, _) = rewrite(&format!(
            "-object memory-backend-memfd,id=m0,size=1G,{properties} -M memory-backend=m0"
        ));
        assert_eq!(
            line,
            "-object memory-backend-file,id=m0,size=1G,mem-path=/proc/self/fd/100,share=on \
             -M memory-backend=m0"
        );
        assert_eq!(files[0].huge_pages, huge_pages);
    }
    let json = concat!(
        r#"{"qom-type":"memory-backend-memfd","id":"m","size":4194304,"#,
        r#""hugetlb":true,"hugetlbsize":2097152}"#
    );
    let (_, files, _) = rewrite(&format!("-M memory-backend=m -object {json}"));
    assert_eq!(files[0].huge_pages, Some(HugePages::OfBytes(2 << 20)));
}

#[test]
fn each_numa_node_keeps_its_own_backend() {
    let (line, files, _) = rewrite(
        "-m 128 -object memory-backend-ram,id=a,size=64M -numa node,memdev=a \
         -object memory-backend-memfd,id=b,size=64M -numa node,nodeid=1,memdev=b",
    );
    assert_eq!(
        line,
        "-m 128 -object memory-backend-file,id=a,size=64M,mem-path=/proc/self/fd/100,share=on \
         -numa node,memdev=a \
         -object memory-backend-file,id=b,size=64M,mem-path=/proc/self/fd/101,share=on \
         -numa node,nodeid=1,memdev=b"
    );
    let ids: Vec<_> = files.iter().map(|file| file.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn a_backend_for_a_dimm_only_leaves_the_ram_to_be_given_one() {
    let (line, files, _) = rewrite(
        "-m 64,slots=1,maxmem=1G -object memory-backend-ram,id=pc.ram,size=32M \
         -device pc-dimm,memdev=pc.ram",
    );
    assert!(
        line.contains("-machine memory-backend=pagelift.ram"),
        "{line}"
    );
    assert_eq!(files.len(), 2);
    assert_eq!(
        (files[0].size_bytes, files[1].size_bytes),
        (32 << 20, 64 << 20)
    );
}

#[test]
fn a_private_file_becomes_shared_with_a_warning() {
    for share in ["", ",share=off"] {
        let (line, files, warnings) = rewrite(&format!(
            "-M memory-backend=m -object memory-backend-file,id=m,size=64M,mem-path=/f{share}"
        ));
        assert_eq!(
            line,
            "-M memory-backend=m -object memory-backend-file,id=m,size=64M,mem-path=/f,share=on"
        );
        assert!(files.is_empty());
        assert!(warnings[0].contains("goes to the file /f"), "{warnings:?}");
    }
}

#[test]
fn what_is_shareable_or_asks_no_machine_is_left_alone() {
    for line in [
        "-M pc,memory-backend=m -m 64 \
         -object memory-backend-file,id=m,size=64M,share=on,mem-path=/f",
        "-m 64 -numa node,memdev=m \
         -object {\"share\":true,\"qom-type\":\"memory-backend-file\",\"id\":\"m\"}",
        "-machine none -nodefaults",
        "-M help -m 64",
        "-m 64 -version",
        "-m 64 --help",
        "-object help",
        "-m 64 -name",
    ] {
        let (after, files, warnings) = rewrite(line);
        let before = args(line).join(std::ffi::OsStr::new(" "));
        assert_eq!(OsString::from(after), before);
        assert!(files.is_empty() && warnings.is_empty(), "{line}");
    }
}

/// Options that say nothing about memory, with values that look like options.
fn unrelated() -> impl Strategy<Value = Vec<OsString>> {
    let flag =
        prop::sample::select(&["-S", "-nodefaults", "--daemonize", "-mem-prealloc", "-s"][..]);
    let name = prop::sample::select(
        &[
            "-append",
            "-name",
            "--kernel",
            "-qmp",
            "-incoming",
            "-drive",
            "-sandbox",
            "-D",
        ][..],
    );
    let value = prop_oneof![
        "[ -~]{0,12}",
        Just("-m".to_owned()),
        Just("-object".to_owned()),
        Just("memory-backend-ram,id=x".to_owned()),
    ];
    prop_oneof![
        flag.prop_map(|flag| vec![flag.into()]),
        (name, value).prop_map(|(name, value)| vec![name.into(), value.into()]),
        "[a-z./]{1,12}".prop_map(|image| vec![image.into()]),
    ]
}

proptest! {
    #[test]
    fn unrelated_arguments_are_untouched_and_in_order(
        before in prop::collection::vec(unrelated(), 0..6),
        after in prop::collection::vec(unrelated(), 0..6),
        has_machine in any::<bool>(),
    ) {
        let mut line: Vec<OsString> = before.concat();
        let machine_at = line.len() + 3;
        line.extend(args("-m 64"));
        if has_machine {
            line.extend(args("-M q35"));
        }
        line.extend(after.concat());
        let rewritten = make_shareable(&line, &mut FakeHost::default()).unwrap().args;

        let mut expected = line;
        if has_machine {
            expected[machine_at].push(",memory-backend=pc.ram");
        } else {
            expected.extend(args("-machine memory-backend=pc.ram"));
        }
        expected.push("-object".into());
        prop_assert_eq!(&rewritten[..rewritten.len() - 1], &expected[..]);
        let object = rewritten.last().unwrap().to_str().unwrap();
        prop_assert!(object.starts_with("memory-backend-file,id=pc.ram,size=67108864,"));
    }
}
