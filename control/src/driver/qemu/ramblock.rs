//! QEMU's list of RAM blocks, from the human monitor's `info ramblock`.
//!
//! QMP has no equivalent. A line of QEMU 10 has the columns name, page size (`4 KiB`), offset in
//! QEMU's RAM space, used length, total length, address in QEMU (all four as `0x` and 16 digits),
//! and, since 8.1, `rw` or `ro`. Units are bytes throughout.

/// One RAM block as QEMU lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the migration stream.
    pub name: String,
    /// Size of the pages behind it, in bytes.
    pub page_bytes: u64,
    /// Length that is in use, in bytes.
    pub used_bytes: u64,
    /// Length it may grow to, in bytes.
    pub total_bytes: u64,
    /// Where it is in QEMU's address space.
    pub address: u64,
}

/// A listing that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("QEMU's 'info ramblock' has a line that is not understood: {0:?}; use QEMU 8.1 or later")]
pub struct UnknownLine(pub String);

/// The named blocks of a listing, sorted by name.
///
/// A block without a name belongs to a memory backend that no device uses; QEMU does not migrate
/// it, and so it is left out.
///
/// # Errors
/// With the first line that has another shape.
pub fn parse(listing: &str) -> Result<Vec<Listed>, UnknownLine> {
    let mut blocks = Vec::new();
    for line in listing.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with("Block Name") {
            continue;
        }
        let block = parse_line(line).ok_or_else(|| UnknownLine(line.to_owned()))?;
        if !block.name.is_empty() {
            blocks.push(block);
        }
    }
    blocks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(blocks)
}

fn parse_line(line: &str) -> Option<Listed> {
    // Read from the first number on: names are of any length, and may be missing.
    let words: Vec<&str> = line.split_whitespace().collect();
    let first_hex = words.iter().position(|word| word.starts_with("0x"))?;
    let (name, size) = words[..first_hex].split_at(first_hex.checked_sub(2)?);
    let unit = match size[1] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let number = |index: usize| -> Option<u64> {
        let word = words.get(first_hex + index)?;
        u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
    };
    Some(Listed {
        name: name.join(" "),
        page_bytes: size[0].parse::<u64>().ok()?.checked_mul(unit)?,
        used_bytes: number(1)?,
        total_bytes: number(2)?,
        address: number(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 10.0.2 prints it, with an unused backend and a name longer than its column.
    const LISTING: &str = "
              Block Name    PSize              Offset               Used              Total \
                 HVA  RO
                  pc.ram    2 MiB  0x0000000002000000 0x0000000004000000 0x0000000004000000 \
0x00007f89ffe00000  rw
                            4 KiB  0x0000000000000000 0x0000000002000000 0x0000000002000000 \
0x00007f8a514fd000  rw
0000:00:03.0/virtio-net-pci.rom    4 KiB  0x00000000070c0000 0x0000000000040000 \
0x0000000000080000 0x00007f89fe800000  ro
";

    #[test]
    fn qemu_10_listing() {
        let blocks = parse(LISTING).unwrap();
        assert_eq!(
            blocks,
            [
                Listed {
                    name: "0000:00:03.0/virtio-net-pci.rom".into(),
                    page_bytes: 4096,
                    used_bytes: 0x4_0000,
                    total_bytes: 0x8_0000,
                    address: 0x7f89_fe80_0000,
                },
                Listed {
                    name: "pc.ram".into(),
                    page_bytes: 2 << 20,
                    used_bytes: 64 << 20,
                    total_bytes: 64 << 20,
                    address: 0x7f89_ffe0_0000,
                },
            ]
        );
    }

    #[test]
    fn other_shapes_are_refused() {
        for line in [
            "unknown command: 'info ramblock'",
            "pc.ram 4 KiB 0x0 0x1 0x2",
            "0x0 0x0 0x0 0x0",
            "pc.ram four KiB 0x0 0x1 0x2 0x3",
            "pc.ram 4 pages 0x0 0x1 0x2 0x3",
        ] {
            assert_eq!(parse(line), Err(UnknownLine(line.to_owned())));
        }
    }
}
