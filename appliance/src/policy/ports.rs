//! Ports, as rules name them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PolicyError;

/// A range of ports, both ends included. As JSON a number, or `"8000-8010"`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    // Invariant: 1 <= first <= last.
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    ///
    /// [`PolicyError::BadPorts`] unless `1 <= first <= last`.
    pub fn new(first: u16, last: u16) -> Result<Self, PolicyError> {
        if first == 0 || last < first {
            return Err(PolicyError::BadPorts { text: format!("{first}-{last}") });
        }
        Ok(Self { first, last })
    }

    /// The lowest port.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// How many ports there are.
    pub fn count(&self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// True if `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let bad = || PolicyError::BadPorts { text: text.escape_debug().to_string() };
        let port = |text: &str| {
            if text.bytes().all(|c| c.is_ascii_digit()) {
                text.parse::<u16>().map_err(|_| bad())
            } else {
                Err(bad())
            }
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Self::new(port(first)?, port(last)?).map_err(|_| bad())
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(u16),
            Range(String),
        }
        match Written::deserialize(deserializer)? {
            Written::One(port) => Self::new(port, port),
            Written::Range(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_start_at_one() {
        for (text, want) in [("443", Some("443")), ("8000-8010", Some("8000-8010")), ("5-5", Some("5"))] {
            assert_eq!(text.parse::<PortRange>().ok().map(|range| range.to_string()).as_deref(), want);
        }
        for text in ["0", "", "65536", "9-8", "-", "1-", "+5"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }
}
