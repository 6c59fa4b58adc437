//! Who is on the other side of a connection, as rules name them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::PolicyError;

/// Somebody on the other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Addresses, less the exceptions; those lie inside `cidr`.
    /// As JSON `"10.0.0.0/8"` or `{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}`.
    Net {
        /// The addresses.
        cidr: IpNet,
        /// Addresses within `cidr` that are left out.
        except: Vec<IpNet>,
    },
    /// Whatever addresses the name resolves to. As JSON `"fqdn:packages.example.org"`.
    Fqdn(Fqdn),
    /// Another machine of the appliance. As JSON `"peer:db"`.
    Machine(String),
    /// The host that runs the VM. As JSON `"host"`.
    Host,
}

/// A domain name, or `*.` and one: any one or more whole labels before it.
/// Lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fqdn(String);

impl Peer {
    /// The addresses of `cidr` less those of `except`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::HostBits`] where a range has bits after its prefix,
    /// [`PolicyError::ExceptOutside`] where an exception is not inside `cidr`.
    pub fn net(cidr: IpNet, except: Vec<IpNet>) -> Result<Self, PolicyError> {
        for found in std::iter::once(&cidr).chain(&except) {
            if found.addr() != found.network() {
                return Err(PolicyError::HostBits { found: *found, meant: found.trunc() });
            }
        }
        match except.iter().find(|except| !cidr.contains(*except)) {
            Some(except) => Err(PolicyError::ExceptOutside { except: *except, cidr }),
            None => Ok(Self::Net { cidr, except }),
        }
    }
}

impl FromStr for Peer {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let bad = || PolicyError::BadPeer { text: text.escape_debug().to_string() };
        if text == "host" {
            return Ok(Self::Host);
        }
        match text.split_once(':') {
            Some(("fqdn", name)) => return name.parse().map(Self::Fqdn),
            Some(("peer", name)) if crate::config::is_label(name) => {
                return Ok(Self::Machine(name.to_owned()));
            }
            _ => {}
        }
        let cidr = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| bad())?,
        };
        Self::net(cidr, Vec::new())
    }
}

impl fmt::Display for Peer {
    /// As it stands in hull.toml; exceptions follow after `except`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net { cidr, except } => {
                write!(f, "{cidr}")?;
                except.iter().enumerate().try_for_each(|(i, except)| {
                    write!(f, "{} {except}", if i == 0 { " except" } else { "," })
                })
            }
            Self::Fqdn(name) => write!(f, "fqdn:{name}"),
            Self::Machine(name) => write!(f, "peer:{name}"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// A peer with exceptions, on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetWire {
    cidr: IpNet,
    except: Vec<IpNet>,
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Net { cidr, except } if !except.is_empty() => {
                NetWire { cidr: *cidr, except: except.clone() }.serialize(serializer)
            }
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Short(String),
            Net(NetWire),
        }
        match Written::deserialize(deserializer)? {
            Written::Short(text) => text.parse(),
            Written::Net(net) => Self::net(net.cidr, net.except),
        }
        .map_err(de::Error::custom)
    }
}

impl Fqdn {
    /// The name, lower case, maybe with `*.` in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `name` (lower case, no final dot) is meant: the same name, or one or more whole
    /// labels before it where this starts with `*.`.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix) && !name.starts_with('.'),
            None => name == self.0,
        }
    }
}

impl FromStr for Fqdn {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        if name.len() <= 253 && plain.split('.').all(label_ok) {
            Ok(Self(name))
        } else {
            Err(PolicyError::BadFqdn { text: text.escape_debug().to_string() })
        }
    }
}

impl fmt::Display for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Fqdn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Fqdn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_peer(text: &str, want: Result<&str, &str>) {
        let found = text.parse::<Peer>();
        let found = found.as_ref().map(ToString::to_string).map_err(ToString::to_string);
        match want {
            Ok(want) => assert_eq!(found.as_deref(), Ok(want)),
            Err(want) => assert!(found.unwrap_err().contains(want)),
        }
    }

    #[test]
    fn peers_are_addresses_names_machines_or_the_host() {
        check_peer("0.0.0.0/0", Ok("0.0.0.0/0"));
        check_peer("10.1.2.3", Ok("10.1.2.3/32"));
        check_peer("::1", Ok("::1/128"));
        check_peer("fqdn:*.Example.org.", Ok("fqdn:*.example.org"));
        check_peer("peer:db", Ok("peer:db"));
        check_peer("host", Ok("host"));
        check_peer("10.0.0.1/8", Err("did you mean `10.0.0.0/8`?"));
        check_peer("10.0.0.0/33", Err("is not a peer"));
        check_peer("fqdn:a.*.org", Err("is not a domain name"));
        check_peer("peer:../x", Err("is not a peer"));
    }

    #[test]
    fn exceptions_lie_inside_their_range() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert!(Peer::net(net("10.0.0.0/8"), vec![net("10.1.0.0/16")]).is_ok());
        let outside = Peer::net(net("10.0.0.0/8"), vec![net("11.0.0.0/16")]).unwrap_err();
        assert_eq!(outside.to_string(), "exception `11.0.0.0/16` is not inside `10.0.0.0/8`");
    }

    #[test]
    fn wildcards_stand_for_whole_labels() {
        let name: Fqdn = "*.example.org".parse().unwrap();
        assert!(name.matches("a.example.org") && name.matches("a.b.example.org"));
        assert!(
            !name.matches("example.org") && !name.matches("badexample.org") && !name.matches(".example.org")
        );
    }
}
