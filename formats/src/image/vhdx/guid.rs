//! GUIDs as VHDX stores and writes them: the first three groups little-endian, the rest in order.
//!
//! Source: \[MS-VHDX\] 2.1 and 2.6.2.6.3; RFC 9562 for the written form.

use std::fmt;

/// A GUID, in the byte order of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Guid(pub(super) [u8; 16]);

impl Guid {
    /// What stands where there is none.
    pub(super) const ZERO: Guid = Guid([0; 16]);

    /// The GUID whose hexadecimal digits are those of `written`.
    pub(super) const fn new(written: u128) -> Self {
        let b = written.to_be_bytes();
        Guid([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
            b[15],
        ])
    }

    /// Reads `{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}`, in upper or lower case.
    pub(super) fn from_braced(text: &str) -> Option<Self> {
        let groups = text.strip_prefix('{')?.strip_suffix('}')?.split('-');
        let mut digits = String::with_capacity(32);
        for (group, len) in groups.clone().zip(GROUP_LENGTHS) {
            if group.len() != len || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            digits += group;
        }
        if groups.count() != GROUP_LENGTHS.len() {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().map(Guid::new)
    }
}

const GROUP_LENGTHS: [usize; 5] = [8, 4, 4, 4, 12];

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Swapping the first three groups is its own inverse.
        let digits = format!("{:032x}", u128::from_be_bytes(Guid::new(u128::from_be_bytes(self.0)).0));
        let mut rest = digits.as_str();
        for (index, len) in GROUP_LENGTHS.into_iter().enumerate() {
            let (group, after) = rest.split_at(len);
            f.write_str(if index == 0 { "{" } else { "-" })?;
            f.write_str(group)?;
            rest = after;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_stored_with_its_first_groups_swapped_and_written_with_braces() {
        let guid = Guid::new(0x2dc27766_f623_4200_9d64_115e9bfd4a08);
        assert_eq!(guid.0, *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
        assert_eq!(guid.to_string(), "{2dc27766-f623-4200-9d64-115e9bfd4a08}");
        assert_eq!(Guid::from_braced("{2DC27766-f623-4200-9d64-115e9bfd4a08}"), Some(guid));
    }

    #[test]
    fn what_is_no_guid_in_braces_is_none() {
        for text in [
            "",
            "{}",
            "2dc27766-f623-4200-9d64-115e9bfd4a08",
            "{2dc27766-f623-4200-9d64-115e9bfd4a0}",
            "{2dc27766-f623-4200-9d64-115e9bfd4a08-}",
            "{2dc277664f623-4200-9d64-115e9bfd4a08}",
            "{+dc27766-f623-4200-9d64-115e9bfd4a08}",
            "{2dc27766f623-4200-9d64-115e9bfd4a08}",
        ] {
            assert_eq!(Guid::from_braced(text), None, "{text}");
        }
    }
}
