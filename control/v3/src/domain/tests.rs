//! Descriptions that a libvirtd 11.3 wrote, and what is refused.

use super::device::{Controller, Disk};
use super::*;

const DEFINED: &str = include_str!("../../tests/data/defined.xml");
const LIVE: &str = include_str!("../../tests/data/live.xml");
const MIGRATABLE: &str = include_str!("../../tests/data/migratable.xml");

fn defined() -> Domain {
    let mut domain = Domain::parse(DEFINED).unwrap();
    domain.resolve_machine(|alias| (alias == "pc").then(|| "pc-i440fx-10.0".to_owned()));
    domain
}

fn changed(from: &str, to: &str) -> Domain {
    assert!(MIGRATABLE.contains(from), "{from}");
    Domain::parse(&MIGRATABLE.replace(from, to)).unwrap()
}

fn numbers(error: DomainError) -> (i32, i32) {
    let text = error.to_string();
    let error = pagelift_rpc::error::Error::from(error);
    assert_eq!(error.message(), text);
    (error.code.number(), error.domain.number())
}

fn refusal(from: &str, to: &str) -> DomainError {
    assert!(DEFINED.contains(from), "{from}");
    Domain::parse(&DEFINED.replace(from, to)).unwrap_err()
}

#[test]
fn the_migratable_form_is_libvirts_byte_for_byte() {
    assert_eq!(defined().to_xml(Flavour::Migratable), MIGRATABLE);
}

#[test]
fn the_live_form_is_libvirts_byte_for_byte_but_for_labels() {
    let mut domain = defined();
    let feature = |name: &str| CpuFeature {
        policy: FeaturePolicy::Require,
        name: name.into(),
    };
    let cpu = Cpu {
        check: Some(CpuCheck::Full),
        features: vec![feature("hypervisor"), feature("lahf_lm")],
        ..Cpu::default()
    };
    domain.started(3, Some(cpu));
    let labels = LIVE.find("  <seclabel").unwrap()..LIVE.find("</domain>").unwrap();
    let mut expected = LIVE.to_owned();
    expected.replace_range(labels, "");
    assert_eq!(domain.to_xml(Flavour::Live), expected);
    assert_eq!(domain.to_xml(Flavour::Migratable), MIGRATABLE);
    domain.stopped();
    assert_eq!(domain, defined());
}

#[test]
fn every_form_is_read_back_as_the_same_guest() {
    let mut domain = defined();
    for flavour in [Flavour::Inactive, Flavour::Migratable] {
        assert_eq!(
            Domain::parse(&domain.to_xml(flavour)).as_ref(),
            Ok(&domain),
            "{flavour:?}"
        );
    }
    domain.started(7, None);
    let back = Domain::parse(&domain.to_xml(Flavour::Live)).unwrap();
    domain.stopped();
    assert_eq!(back, domain);
    assert_eq!(Domain::parse(LIVE).unwrap().devices, domain.devices);
}

#[test]
fn a_whole_machine_is_read_back_as_it_was_written() {
    let text = include_str!("../../tests/data/whole.xml");
    let domain = Domain::parse(text).unwrap();
    assert_eq!(domain.to_xml(Flavour::Inactive), text);
    let back = Domain::parse(&domain.to_xml(Flavour::Migratable)).unwrap();
    assert_eq!(differences(&domain, &back), Vec::<String>::new());
}

#[test]
fn a_uuid_may_be_given_to_a_new_guest_only() {
    let text = DEFINED.replace("<uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>", "");
    assert_eq!(
        Domain::parse(&text),
        Err(DomainError::Xml("/domain/uuid is missing".into()))
    );
    let fresh = Uuid([7; 16]);
    assert_eq!(Domain::parse_new(&text, fresh).unwrap().uuid, fresh);
    assert_ne!(Domain::parse_new(DEFINED, fresh).unwrap().uuid, fresh);
}

#[test]
fn what_is_not_supported_is_refused_by_its_path() {
    for (from, to, path) in [
        ("</devices>", "<tpm/></devices>", "/domain/devices/tpm"),
        ("<acpi/>", "<acpi/><smm/>", "/domain/features/smm"),
        (
            "cache='none'",
            "cache='none' iothread='1'",
            "/domain/devices/disk/driver/@iothread",
        ),
        ("<vcpu>1", "<vcpu cpuset='0'>1", "/domain/vcpu/@cpuset"),
        (
            "<disk type='file'",
            "<disk type='network'",
            "/domain/devices/disk",
        ),
        (
            "</domain>",
            "<seclabel type='static'/></domain>",
            "/domain/seclabel",
        ),
    ] {
        let error = refusal(from, to);
        assert_eq!(
            error,
            DomainError::Unsupported(format!("{path} is not supported"))
        );
        assert_eq!(numbers(error), (67, 20));
    }
    assert_eq!(
        refusal("machine='pc'", "machine='virt'"),
        DomainError::Unsupported("machine type 'virt' is not supported".into())
    );
}

#[test]
fn what_is_impossible_is_refused() {
    for (from, to, what) in [
        ("<name>g1</name>", "<name>a/b</name>", "invalid name 'a/b'"),
        ("<vcpu>1", "<vcpu>0", "invalid value '0' in /domain/vcpu"),
        ("131072", "-1", "invalid value '-1' in /domain/memory"),
        (
            "<acpi/>",
            "<acpi/><acpi/>",
            "/domain/features/acpi occurs multiple times",
        ),
        (
            "dev='vda'",
            "dev='v'",
            "invalid value 'v' in /domain/devices/disk/target",
        ),
        (
            "<source file='/shared/g1.raw'/>",
            "",
            "/domain/devices/disk/source is missing",
        ),
    ] {
        let error = refusal(from, to);
        assert_eq!(error, DomainError::Xml(what.into()));
        assert_eq!(numbers(error), (27, 20));
    }
    let error = Domain::parse("127\n").unwrap_err();
    assert!(error.to_string().starts_with("at line 1: "), "{error}");
    assert_eq!(numbers(error), (35, 20));
    assert!(Domain::parse("<network/>").is_err());
}

#[test]
fn disks_are_named_by_letters() {
    let mut disk: Disk = defined().devices.disks.remove(0);
    for (target, index) in [
        ("vda", Some(0)),
        ("vdz", Some(25)),
        ("vdaa", Some(26)),
        ("vd1", None),
        ("vd", None),
    ] {
        disk.target = target.into();
        assert_eq!(disk.index(), index, "{target}");
    }
}

/// The refusals of a libvirtd 11.3, word for word.
#[test]
fn differences_are_named_in_libvirts_words() {
    let uuid = "aaaaaaaa-0000-4000-8000-0000000000cc";
    for (from, to, words) in [
        (
            "131072</m",
            "262144</m",
            "domain max memory 262144 does not match source 131072",
        ),
        (
            "dev='vda'",
            "dev='vdb'",
            "disk vdb does not match source vda",
        ),
        (
            ">g1</name>",
            ">gz</name>",
            "domain name 'gz' does not match source 'g1'",
        ),
        (
            "aaaaaaaa-0000-4000-8000-000000000001",
            uuid,
            "domain uuid aaaaaaaa-0000-4000-8000-0000000000cc does not match source \
             aaaaaaaa-0000-4000-8000-000000000001",
        ),
        (
            "pc-i440fx-10.0",
            "pc-i440fx-9.2",
            "domain machine type pc-i440fx-9.2 does not match source pc-i440fx-10.0",
        ),
        (
            "'static'>1",
            "'static'>2",
            "domain vCPU max 2 does not match source 1",
        ),
        (
            "</devices>",
            "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x00' \
             slot='0x1f' function='0x0'/></source></hostdev></devices>",
            "domain host device count 1 does not match source 0",
        ),
    ] {
        let error = check_abi(&defined(), &changed(from, to)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("unsupported configuration: Target {words}")
        );
        assert_eq!(numbers(error), (67, 20));
    }
}

#[test]
fn what_the_host_does_for_a_guest_may_differ() {
    for (from, to) in [
        ("w=1,0", "changed"),
        ("/local/g1-serial.log", "/local/other.log"),
        ("/shared/g1.raw", "/elsewhere/g1.raw"),
        ("131072</c", "65536</c"),
        ("cache='none'", "cache='writeback'"),
    ] {
        assert_eq!(check_abi(&defined(), &changed(from, to)), Ok(()), "{to}");
    }
}

#[test]
fn every_further_difference_is_named_as_well() {
    let mut other = defined();
    other.devices.disks[0].readonly = true;
    other
        .devices
        .controllers
        .push(Controller::new(device::ControllerKind::Scsi, 0));
    other.cpu.features.push(CpuFeature {
        policy: FeaturePolicy::Disable,
        name: "svm".into(),
    });
    assert_eq!(
        differences(&defined(), &other),
        [
            "Target CPU features do not match source",
            "Target disk access mode readonly true does not match source false",
            "Target domain controller count 3 does not match source 2",
        ]
    );
}
