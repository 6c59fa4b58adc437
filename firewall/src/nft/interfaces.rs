//! Names that go into nft text. Their types are what keeps other text out of it.

use std::fmt;
use std::str::FromStr;

/// The two links of a machine's network namespace, and the machine's MAC address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The tap that leads to the machine, such as `vm0`.
    pub tap: InterfaceName,
    /// The link that leads outside, such as `up0`.
    pub uplink: InterfaceName,
    /// The only MAC address that the machine may use.
    pub guest_mac: MacAddress,
}

/// Why a text does not name an interface or is no MAC address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// Too long, or with characters that have a meaning to nft or the kernel.
    #[error("`{text}` is not an interface name; expected 1 to 15 letters, digits, `-` and `_`")]
    BadName {
        /// What was found, control characters escaped.
        text: String,
    },
    /// Not six pairs of hex digits, or an address that is no single machine's.
    #[error("`{text}` is not a machine's MAC address; expected one such as 52:54:00:12:34:56")]
    BadMac {
        /// What was found, control characters escaped.
        text: String,
    },
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(
    // Invariant: 1 to 15 bytes of [A-Za-z0-9_-]. A final `*` would be nft's wildcard, a `/` a path in sysfs, and a
    // `.` would end a component in a sysctl's name.
    String,
);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if (1..=15).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InterfaceError::BadName { text: text.escape_debug().to_string() })
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A machine's MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(
    // Invariant: not a group address, not all zeros.
    [u8; 6],
);

impl MacAddress {
    /// The address with these octets.
    ///
    /// # Errors
    ///
    /// [`InterfaceError::BadMac`] for group addresses and for all zeros.
    pub fn new(octets: [u8; 6]) -> Result<Self, InterfaceError> {
        let address = Self(octets);
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(InterfaceError::BadMac { text: address.to_string() });
        }
        Ok(address)
    }

    /// The octets, in the order of the wire.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = InterfaceError;

    fn from_str(text: &str) -> Result<Self, InterfaceError> {
        let bad = || InterfaceError::BadMac { text: text.escape_debug().to_string() };
        let octets: Option<Vec<u8>> = text.split(':').map(hex_octet).collect();
        let octets = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()).ok_or_else(bad)?;
        Self::new(octets).map_err(|_| bad())
    }
}

/// Two hex digits; `from_str_radix` alone would take a sign too.
fn hex_octet(pair: &str) -> Option<u8> {
    let digits = pair.len() == 2 && pair.bytes().all(|c| c.is_ascii_hexdigit());
    u8::from_str_radix(pair, 16).ok().filter(|_| digits)
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_names_gets_into_nft_text() {
        for (name, want) in [
            ("vm0", true),
            ("hull-up_15chars", true),
            ("", false),
            ("sixteen-chars-xx", false),
            ("vm*", false),
            ("vm0\" accept", false),
            ("a.b", false),
            ("..", false),
        ] {
            assert_eq!(name.parse::<InterfaceName>().is_ok(), want, "{name}");
        }
    }

    #[test]
    fn a_mac_address_is_one_machines() {
        for (text, want) in [
            ("52:54:00:12:34:56", true),
            ("52:54:00:AB:cd:ef", true),
            ("ff:ff:ff:ff:ff:ff", false),
            ("01:00:5e:00:00:01", false),
            ("00:00:00:00:00:00", false),
            ("52:54:00:12:34", false),
            ("52:54:00:12:34:56:78", false),
            ("+2:54:00:12:34:56", false),
            ("525400123456", false),
        ] {
            assert_eq!(text.parse::<MacAddress>().is_ok(), want, "{text}");
        }
    }
}
