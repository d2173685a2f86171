//! What is refused, read from a file, or warned of.

use super::*;

fn refusal(line: &str) -> String {
    make_shareable(&args(line), &mut FakeHost::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn what_cannot_be_shared_is_refused_with_reason_and_remedy() {
    let table = [
        (
            "-object memory-backend-file,id=m,readonly=on,rom=off",
            &["memory backend m", "read-only", "remove readonly=on"][..],
        ),
        (
            "-object memory-backend-file,id=m,rom=on,share=on",
            &["memory backend m", "read-only"],
        ),
        (
            "-object memory-backend-file,id=nv,pmem=on",
            &["memory backend nv", "persistent", "add share=on"],
        ),
        (
            "-object memory-backend-epc,id=e,size=1M",
            &[
                "memory backend e",
                "memory-backend-epc",
                "memory-backend-ram",
            ],
        ),
        (
            "-M q35,confidential-guest-support=sev0",
            &["encrypted", "without pagelift"],
        ),
        ("-m lots", &["-m lots", "512M"]),
        ("-m 0x40", &["-m 0x40"]),
        (
            "-object memory-backend-ram,id=m",
            &["memory backend m: size="],
        ),
        ("-object memory-backend-ram,id=m,size=0", &["size=0"]),
        (
            "-object memory-backend-memfd,id=m,size=6M,hugetlb=on,hugetlbsize=3M",
            &["hugetlbsize=3M", "power of two"],
        ),
        ("-object {\"qom-type\":", &["-object {", "EOF"]),
        ("-readconfig gone.cfg", &["gone.cfg", "-readconfig"]),
    ];
    for (line, parts) in table {
        let text = refusal(line);
        for part in parts {
            assert!(text.contains(part), "{line}: {text}");
        }
    }
}

#[test]
fn memory_in_a_config_file_counts_and_is_named_when_it_cannot_be_shared() {
    let with_config = |line: &str, text| {
        let mut host = FakeHost::default();
        host.configs.insert("vm.cfg", text);
        make_shareable(&args(line), &mut host).map(|_| host.files)
    };
    let size = "[memory]\nsize = \"80\"\n";
    let files = with_config("-readconfig vm.cfg", size).unwrap();
    assert_eq!(files[0].size_bytes, 80 << 20);
    let files = with_config("-readconfig vm.cfg -m 64", size).unwrap();
    assert_eq!(files[0].size_bytes, 64 << 20);

    let error = with_config(
        "-readconfig vm.cfg",
        "[object \"mm\"]\nqom-type = \"memory-backend-ram\"\n",
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("memory backend mm") && text.contains("vm.cfg defines it"));

    let shared = "[object \"m\"]\nqom-type = \"memory-backend-file\"\nshare = \"on\"\n\
                  [machine]\nmemory-backend = \"m\"\n";
    assert_eq!(with_config("-readconfig vm.cfg", shared).unwrap(), []);
}

#[test]
fn writers_outside_qemu_are_warned_of() {
    for option in [
        "-device vfio-pci,host=01:00.0",
        "-device {\"driver\":\"vhost-user-fs-pci\"}",
        "-netdev vhost-user,id=n,chardev=c",
    ] {
        let (_, _, warnings) = rewrite(option);
        assert!(warnings[0].contains("outside QEMU"), "{option}");
    }
    assert!(
        rewrite("-device virtio-net-pci -netdev tap,id=n,vhost=on")
            .2
            .is_empty()
    );
}

#[test]
fn a_system_without_the_memory_says_which_backend_and_how_much() {
    let mut host = FakeHost {
        has_no_memory: true,
        ..FakeHost::default()
    };
    let error = make_shareable(&args("-m 64"), &mut host).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("pc.ram (67108864 bytes)") && text.contains("vm.nr_hugepages"));
}
