//! Sizes as QEMU's options write them.
//!
//! A decimal number, perhaps with a fraction, and one suffix letter of either case: B, K, M,
//! G, T, P or E, powers of 1024. Without a letter the option decides: `-m` means MiB, a
//! backend's `size` means bytes. Hexadecimal is not taken, as QEMU does not for `-m`.

/// Bytes that `text` means; a number without a suffix is multiplied by `bare_unit_bytes`.
///
/// `None` for what QEMU would not accept either: no number, a minus sign, an unknown suffix, a
/// fraction of a byte, 2^64 bytes or more.
pub(super) fn parse(text: &str, bare_unit_bytes: u64) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix.to_ascii_uppercase().as_str() {
        "" => bare_unit_bytes,
        "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        "P" => 1 << 50,
        "E" => 1 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let bytes = whole.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(bytes);
    }
    if unit == 1 || suffix.is_empty() {
        return None;
    }
    let share: f64 = format!("0.{fraction}").parse().ok()?;
    // Exact for units that are powers of two, up to the digits of the fraction itself.
    bytes.checked_add((share * unit as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_qemu_takes_them_for() {
        const MIB: u64 = 1 << 20;
        let table = [
            ("64", Some(64 * MIB)),
            ("64M", Some(64 * MIB)),
            ("64m", Some(64 * MIB)),
            ("1G", Some(1024 * MIB)),
            ("1.5G", Some(1536 * MIB)),
            (".5G", Some(512 * MIB)),
            ("1.G", Some(1024 * MIB)),
            ("67108864B", Some(64 * MIB)),
            ("1025k", Some(1025 << 10)),
            ("2T", Some(2 << 40)),
            ("15E", Some(15 << 60)),
            ("16E", None),
            ("99999999999999999999", None),
            ("64.5", None),
            ("1.5B", None),
            ("64MB", None),
            ("0x40", None),
            ("-1", None),
            ("", None),
            (".", None),
            ("1.2.3G", None),
            ("G", None),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text, MIB), bytes, "{text}");
        }
        assert_eq!(parse("4096", 1), Some(4096));
    }
}
