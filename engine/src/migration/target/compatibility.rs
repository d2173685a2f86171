//! Compatibility: whether the guest of a source can come to this side, and why not.
//!
//! Only compares: the machine decides what a difference means. All are named at once, so that a
//! user need not come back once for each.

use std::collections::{BTreeMap, BTreeSet};

use super::misfit::Misfit;
use super::types::TargetConfig;
use crate::memory::Layout;
use crate::wire::{
    Encoding, Encodings, GuestProperty, Hello, OLDEST_VERSION, PropertyKind, VERSION,
};

/// Every reason why the guest of `hello` cannot come to a side that is like `here`.
pub(super) fn incompatibilities(hello: &Hello, here: &TargetConfig) -> Vec<Misfit> {
    let mut reasons = Vec::new();
    reasons.extend(version_difference(hello));
    reasons.extend(layout_difference(&hello.layout, &here.layout));
    reasons.extend(property_differences(&hello.properties, &here.properties));
    reasons.extend(detail_differences(&hello.properties, &here.properties));
    reasons.extend(unreadable(hello.needs.beyond(here.reads)));
    reasons
}

/// That the two sides have no version of the protocol in common.
fn version_difference(hello: &Hello) -> Option<Misfit> {
    if hello.common_version().is_some() {
        return None;
    }
    let (oldest, newest) = hello.versions;
    let way_out = "install versions of pagelift at most one apart";
    Some(Misfit::veiled(
        &format!(
            "protocol version: the source speaks {oldest} to {newest}, the target {OLDEST_VERSION} to \
             {VERSION}; {way_out}"
        ),
        &format!("protocol version: the two sides have none in common; {way_out}"),
    ))
}

/// How the memory of the two sides differs, in words.
fn layout_difference(source: &Layout, target: &Layout) -> Option<Misfit> {
    let describe = |layout: &Layout| {
        let regions = layout.regions().iter();
        regions
            .map(|r| format!("{} of {} bytes", r.name, r.pages.bytes().0))
            .collect::<Vec<_>>()
    };
    let (source, target) = (describe(source), describe(target));
    if source == target {
        return None;
    }
    let way_out = "start the target with the same memory";
    let (source, target) = (source.join(", "), target.join(", "));
    Some(Misfit::veiled(
        &format!("memory layout: source [{source}], target [{target}]; {way_out}"),
        &format!("memory layout differs; {way_out}"),
    ))
}

/// What the source would send that this side cannot read, in words.
fn unreadable(missing: Encodings) -> Option<Misfit> {
    let way_out = "send with --compress auto";
    let whole = if missing.is_empty() {
        return None;
    } else if missing == Encodings::none().with(Encoding::Zstd) {
        format!(
            "compression: the source packs pages with zstd, and the target is a build without \
             it; {way_out}, or build the target's pagelift with its feature `zstd`"
        )
    } else {
        let numbers: Vec<_> = (0..32u32)
            .filter(|bit| missing.0 >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        format!(
            "compression: the source sends pages in encodings that the target cannot read \
             (number {}); {way_out}, or install the same version of pagelift on both sides",
            numbers.join(", ")
        )
    };
    let public = "compression: the target cannot read what the source sends";
    Some(Misfit::veiled(&whole, &format!("{public}; {way_out}")))
}

/// Which required guest properties differ, in words.
fn property_differences(source: &[GuestProperty], target: &[GuestProperty]) -> Vec<Misfit> {
    let in_words = |name: &str, source: Option<&str>, target: Option<&str>| match (source, target) {
        (Some(source), Some(target)) => {
            let split = |value: &str| value.split(", ").map(str::to_owned).collect::<Vec<_>>();
            list_difference(name, &split(source), &split(target))
        }
        _ => Some(in_short(name, source, target)),
    };
    let kind = PropertyKind::Required;
    by_name(&of_kind(source, kind), &of_kind(target, kind))
        .into_iter()
        .filter(|(_, source, target)| source != target)
        .filter_map(|(name, source, target)| in_words(name, source, target))
        .collect()
}

/// Which details of the machine differ, in words, and the way out; none if a side gives no details.
fn detail_differences(source: &[GuestProperty], target: &[GuestProperty]) -> Vec<Misfit> {
    let kind = PropertyKind::Detail;
    let (source, target) = (of_kind(source, kind), of_kind(target, kind));
    if source.is_empty() || target.is_empty() {
        return Vec::new();
    }
    let mut differences: Vec<Misfit> = by_name(&source, &target)
        .into_iter()
        .flat_map(|(name, source, target)| match (source, target) {
            (Some(source), Some(target)) => entry_differences(name, source, target),
            _ => vec![in_short(name, source, target)],
        })
        .collect();
    if !differences.is_empty() {
        differences.push(Misfit::open(
            "the guest would see another machine: start the target's hypervisor with the source's \
             options, or send with --allow-guest-abi-change; the guest may then crash at any time \
             after its move, or its devices not load once all memory was sent",
        ));
    }
    differences
}

/// How the entries of a detail that both sides have differ, in words.
fn entry_differences(name: &str, source: &str, target: &str) -> Vec<Misfit> {
    let plain = |value: &str| {
        let entries = value.lines().filter(|entry| !entry.contains('='));
        entries.map(str::to_owned).collect::<Vec<_>>()
    };
    if let Some(difference) = list_difference(name, &plain(source), &plain(target)) {
        // It is another thing altogether; its settings need not be compared.
        return vec![difference];
    }
    let settings = |value: &str| {
        let settings = value.lines().filter_map(|entry| entry.split_once('='));
        settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect::<BTreeMap<_, _>>()
    };
    let theirs = settings(target);
    let differs = |(key, here): (String, String)| {
        let there = theirs.get(&key).filter(|there| **there != here)?;
        let how = format!("source {here}, target {there}");
        Some(Misfit::differs(&format!("{name}, {key}"), &how))
    };
    settings(source).into_iter().filter_map(differs).collect()
}

/// How two lists differ, in words: the entries that one side alone has.
fn list_difference(name: &str, source: &[String], target: &[String]) -> Option<Misfit> {
    let only = |these: &[String], those: &[String]| {
        let only = these.iter().filter(|entry| !those.contains(entry));
        only.cloned().collect::<Vec<_>>().join(", ")
    };
    let (ours, theirs) = (only(source, target), only(target, source));
    match (source, target) {
        _ if ours.is_empty() && theirs.is_empty() => {
            // The same entries, in another order or number.
            (source != target).then(|| {
                let (source, target) = (source.join(", "), target.join(", "));
                Misfit::differs(name, &format!("source {source}, target {target}"))
            })
        }
        ([_] | [], [_] | []) => Some(in_short(
            name,
            Some(&ours)
                .filter(|entry| !entry.is_empty())
                .map(String::as_str),
            Some(&theirs)
                .filter(|entry| !entry.is_empty())
                .map(String::as_str),
        )),
        _ => {
            let parts = [("source", ours), ("target", theirs)].into_iter();
            let parts = parts
                .filter(|(_, entries)| !entries.is_empty())
                .map(|(side, entries)| format!("only the {side} has {entries}"));
            Some(Misfit::differs(name, &parts.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// What both sides have, in words; of many entries the first is enough.
fn in_short(name: &str, source: Option<&str>, target: Option<&str>) -> Misfit {
    let word = |value: Option<&str>| match value {
        Some(value) => value.lines().next().unwrap_or("empty").to_owned(),
        None => "none".to_owned(),
    };
    let how = format!("source {}, target {}", word(source), word(target));
    Misfit::differs(name, &how)
}

/// Name and value of the properties of a kind.
fn of_kind(properties: &[GuestProperty], kind: PropertyKind) -> BTreeMap<&str, &str> {
    properties
        .iter()
        .filter(|property| property.kind == kind)
        .map(|property| (property.name.as_str(), property.value.as_str()))
        .collect()
}

/// All names, each with its value on both sides.
fn by_name<'a>(
    source: &BTreeMap<&'a str, &'a str>,
    target: &BTreeMap<&'a str, &'a str>,
) -> Vec<(&'a str, Option<&'a str>, Option<&'a str>)> {
    let names: BTreeSet<&str> = source.keys().chain(target.keys()).copied().collect();
    names
        .into_iter()
        .map(|name| (name, source.get(name).copied(), target.get(name).copied()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(misfits: &[Misfit]) -> Vec<String> {
        misfits.iter().map(|it| it.whole().to_owned()).collect()
    }

    fn nic(entries: &[&str]) -> GuestProperty {
        GuestProperty::detail("device 02.0", entries)
    }

    #[test]
    fn required_lists_are_told_by_what_differs() {
        let blocks = |list: &str| vec![GuestProperty::new("blocks", list)];
        let differ = |a: &str, b: &str| words(&property_differences(&blocks(a), &blocks(b)));
        assert_eq!(differ("a 1, b 2", "a 1, b 2"), [""; 0]);
        let both = ["blocks: only the source has b 2; only the target has b 3"];
        assert_eq!(differ("a 1, b 2", "a 1, b 3"), both);
        assert_eq!(
            differ("a 1, b 2", "a 1"),
            ["blocks: only the source has b 2"]
        );
        assert_eq!(differ("pc", "q35"), ["blocks: source pc, target q35"]);
        assert_eq!(differ("a, b", "b, a"), ["blocks: source a, b, target b, a"]);
        assert_eq!(
            words(&property_differences(&blocks("a"), &[])),
            ["blocks: source a, target none"]
        );
    }

    #[test]
    fn details_are_compared_by_entry() {
        let differ = |a: &[&str], b: &[&str]| {
            let mut all = words(&detail_differences(&[nic(a)], &[nic(b)]));
            let way_out = all.pop();
            assert!(way_out.is_none_or(|words| words.contains("--allow-guest-abi-change")));
            all
        };
        assert_eq!(
            differ(&["e1000", "vectors=3"], &["e1000", "vectors=3"]),
            [""; 0]
        );
        assert_eq!(
            differ(
                &["e1000", "vectors=3", "mq=on"],
                &["e1000", "vectors=4", "mq=off"]
            ),
            [
                "device 02.0, mq: source on, target off",
                "device 02.0, vectors: source 3, target 4"
            ]
        );
        // Another version of a hypervisor knows other keys.
        assert_eq!(differ(&["e1000", "new=1"], &["e1000"]), [""; 0]);
        assert_eq!(
            differ(&["e1000", "mq=on"], &["virtio-net-pci", "mq=off"]),
            ["device 02.0: source e1000, target virtio-net-pci"]
        );
        assert_eq!(
            differ(&["avx", "avx2"], &["avx", "sse"]),
            ["device 02.0: only the source has avx2; only the target has sse"]
        );
    }

    #[test]
    fn a_side_without_details_is_not_compared_with() {
        let required = GuestProperty::new("machine type", "pc");
        assert_eq!(
            detail_differences(&[nic(&["e1000"])], std::slice::from_ref(&required)),
            []
        );
        assert_eq!(detail_differences(&[required], &[nic(&["e1000"])]), []);
        let other = GuestProperty::detail("device 03.0", ["VGA"]);
        let differences = detail_differences(&[nic(&["e1000", "a=1"])], &[other]);
        assert_eq!(
            words(&differences)[..2],
            [
                "device 02.0: source e1000, target none",
                "device 03.0: source none, target VGA"
            ]
        );
    }
}
