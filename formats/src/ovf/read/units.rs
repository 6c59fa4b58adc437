//! Units of quantities: `byte * 2^20`, `MegaBytes`, `hertz * 10^6`.
//!
//! Source: DMTF DSP0004 2.7, annex C.1 (programmatic units), of which writers use multiplication only; and the words
//! that older ones write instead.

/// How many bytes the unit is; `None` where it is no number of bytes, or not one below 2^64.
pub(super) fn bytes(unit: &str) -> Option<u64> {
    let mut factors = unit.split('*');
    let base = word(factors.next()?.trim())?;
    factors.try_fold(base, |product, factor| product.checked_mul(modifier(factor.trim())?))
}

/// The bytes of a unit that is one word, in any case: `byte`, `MegaBytes`, `MB`, `1024`.
fn word(text: &str) -> Option<u64> {
    if let Some(number) = modifier(text) {
        return Some(number);
    }
    let power = match text.to_ascii_lowercase().as_str() {
        "byte" | "bytes" | "b" => 0,
        "kilobyte" | "kilobytes" | "kb" | "kib" => 10,
        "megabyte" | "megabytes" | "mb" | "mib" => 20,
        "gigabyte" | "gigabytes" | "gb" | "gib" => 30,
        "terabyte" | "terabytes" | "tb" | "tib" => 40,
        _ => return None,
    };
    Some(1 << power)
}

/// A number, or a power of one: `1024`, `2^20`.
fn modifier(text: &str) -> Option<u64> {
    match text.split_once('^') {
        Some((base, power)) => {
            let (base, power) = (super::number(base)?, super::number(power)?);
            base.checked_pow(u32::try_from(power).ok()?)
        }
        None => super::number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn units_are_read_as_writers_write_them() {
        let known: [(&str, u64); 12] = [
            ("byte", 1),
            ("byte * 2^20", 1 << 20),
            ("byte*2^30", 1 << 30),
            ("byte * 2 ^ 20", 1 << 20),
            ("byte*1024*1024", 1 << 20),
            (" bytes * 10^9 ", 1_000_000_000),
            ("MegaBytes", 1 << 20),
            ("MB", 1 << 20),
            ("GB", 1 << 30),
            ("KiloBytes", 1 << 10),
            ("1048576", 1 << 20),
            ("byte * 2^63", 1 << 63),
        ];
        for (unit, want) in known {
            assert_eq!(bytes(unit), Some(want), "{unit}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_none() {
        let unknown = [
            "",
            "hertz * 10^6",
            "percent",
            "byte * 2^64",
            "byte * 2^63 * 2",
            "byte * -1",
            "byte * 2^-1",
            "byte / 2",
            "byte *",
            "byte * NaN",
            "byte * 2^99999999999999999999",
            "byte * 10^4294967295",
        ];
        for unit in unknown {
            assert_eq!(bytes(unit), None, "{unit}");
        }
    }
}
