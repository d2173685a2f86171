//! The oracles: the format as it is described, byte by byte, and nothing clever.

use crate::units::PAGE_BYTES;

fn put_uleb(out: &mut Vec<u8>, length: usize) {
    if length >= 0x80 {
        out.push((length % 0x80) as u8 | 0x80);
        out.push((length / 0x80) as u8);
    } else {
        out.push(length as u8);
    }
}

/// The delta that writes every changed byte and no other, `None` if nothing changed.
pub(super) fn encode(old: &[u8; PAGE_BYTES], new: &[u8; PAGE_BYTES]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < PAGE_BYTES {
        let start = at;
        while at < PAGE_BYTES && old[at] == new[at] {
            at += 1;
        }
        if at == PAGE_BYTES {
            break;
        }
        put_uleb(&mut out, at - start);
        let start = at;
        while at < PAGE_BYTES && old[at] != new[at] {
            at += 1;
        }
        put_uleb(&mut out, at - start);
        out.extend_from_slice(&new[start..at]);
    }
    (!out.is_empty()).then_some(out)
}

fn take_uleb(rest: &mut &[u8]) -> Option<usize> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    if *first < 0x80 {
        return Some(usize::from(*first));
    }
    let (second, tail) = rest.split_first()?;
    *rest = tail;
    (*second < 0x80).then_some(usize::from(*first) - 0x80 + usize::from(*second) * 0x80)
}

/// The page that `delta` makes of `page`, `None` if it is malformed.
pub(super) fn decode(delta: &[u8], page: &[u8]) -> Option<Vec<u8>> {
    if delta.len() > PAGE_BYTES {
        return None;
    }
    let mut page = page.to_vec();
    let mut rest = delta;
    let mut at = 0;
    let mut first = true;
    while !rest.is_empty() {
        let zrun = take_uleb(&mut rest)?;
        let nzrun = take_uleb(&mut rest)?;
        if nzrun == 0 || (zrun == 0 && !first) {
            return None;
        }
        first = false;
        at += zrun;
        for _ in 0..nzrun {
            let (literal, tail) = rest.split_first()?;
            rest = tail;
            *page.get_mut(at)? = *literal;
            at += 1;
        }
    }
    Some(page)
}
