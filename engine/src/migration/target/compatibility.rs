//! Compatibility: whether the guest of a source can come to this side, and why not.
//!
//! Only compares: the machine decides what a difference means. All are named at once, so that a
//! user need not come back once for each.

use super::types::TargetConfig;
use crate::memory::Layout;
use crate::wire::{Encoding, Encodings, GuestProperty, Hello, OLDEST_VERSION, VERSION};

/// Every reason why the guest of `hello` cannot come to a side that is like `here`.
pub(super) fn incompatibilities(hello: &Hello, here: &TargetConfig) -> Vec<String> {
    let mut reasons = Vec::new();
    reasons.extend(version_difference(hello));
    reasons.extend(layout_difference(&hello.layout, &here.layout));
    reasons.extend(property_differences(&hello.properties, &here.properties));
    reasons.extend(unreadable(hello.needs.beyond(here.reads)));
    reasons
}

/// That the two sides have no version of the protocol in common.
fn version_difference(hello: &Hello) -> Option<String> {
    if hello.common_version().is_some() {
        return None;
    }
    let (oldest, newest) = hello.versions;
    Some(format!(
        "protocol version: the source speaks {oldest} to {newest}, the target \
         {OLDEST_VERSION} to {VERSION}; install versions of pagelift at most one apart"
    ))
}

/// How the memory of the two sides differs, in words.
fn layout_difference(source: &Layout, target: &Layout) -> Option<String> {
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
    Some(format!(
        "memory layout: source [{}], target [{}]; start the target with the same memory",
        source.join(", "),
        target.join(", ")
    ))
}

/// What the source would send that this side cannot read, in words.
fn unreadable(missing: Encodings) -> Option<String> {
    let way_out = "send with --compress auto";
    if missing.is_empty() {
        None
    } else if missing == Encodings::none().with(Encoding::Zstd) {
        Some(format!(
            "compression: the source packs pages with zstd, and the target is a build without \
             it; {way_out}, or build the target's pagelift with its feature `zstd`"
        ))
    } else {
        let numbers: Vec<_> = (0..32u32)
            .filter(|bit| missing.0 >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        Some(format!(
            "compression: the source sends pages in encodings that the target cannot read \
             (number {}); {way_out}, or install the same version of pagelift on both sides",
            numbers.join(", ")
        ))
    }
}

/// Which guest properties differ, in words.
fn property_differences(source: &[GuestProperty], target: &[GuestProperty]) -> Vec<String> {
    let value = |properties: &[GuestProperty], name: &str| {
        properties
            .iter()
            .find(|property| property.name == name)
            .map(|property| property.value.clone())
    };
    let mut names: Vec<&str> = source
        .iter()
        .chain(target)
        .map(|property| property.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut differences = Vec::new();
    for name in names {
        let (here, there) = (value(source, name), value(target, name));
        if here != there {
            let word = |value: Option<String>| value.unwrap_or_else(|| "none".into());
            differences.push(format!(
                "{name}: source {}, target {}",
                word(here),
                word(there)
            ));
        }
    }
    differences
}
