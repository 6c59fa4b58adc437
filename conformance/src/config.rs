//! The fields of an appliance's config, and the OVF that it may have come from.
//!
//! Source: docs/formats/appliance.md, sections 1 and 4.

use serde_json::Value;

use crate::report::Report;
use crate::rules::Rule;

/// A field: its name, whether it must be there, and what it may hold.
type Field = (&'static str, Presence, Values);

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Needed,
    Optional,
}

#[derive(Clone, Copy)]
enum Values {
    Text,
    /// 1 to 63 of `a-z`, `0-9` and `-`, not starting with `-`.
    Name,
    /// Both ends included.
    Number(u64, u64),
    /// 512 bytes to 1 PiB. Sectors are not counted: the disk that the format's own example has ends within one.
    Size,
    OneOf(&'static [&'static str]),
    /// At most so many objects with these fields.
    List(usize, &'static [Field]),
}

use Presence::{Needed, Optional};
use Values::{List, Name, Number, OneOf, Size, Text};

const CONFIG: &[Field] = &[
    ("formatVersion", Needed, Number(1, 1)),
    ("name", Needed, Text),
    ("version", Needed, Text),
    ("title", Optional, Text),
    ("machines", Needed, List(64, MACHINE)),
    ("parent", Optional, Text),
];

const MACHINE: &[Field] = &[
    ("name", Needed, Name),
    ("arch", Needed, OneOf(&["amd64", "arm64"])),
    ("vcpus", Optional, Number(1, 1024)),
    ("memoryBytes", Optional, Number(1 << 20, 16 << 40)),
    ("firmware", Optional, OneOf(&["bios", "uefi", "uefi-secure"])),
    ("cpu", Optional, OneOf(&CPUS)),
    ("console", Optional, OneOf(&["serial", "none"])),
    ("devices", Optional, OneOf(&["virtio", "compat"])),
    ("startOrder", Optional, Number(0, u32::MAX as u64)),
    ("disks", Optional, List(64, DISK)),
    ("nics", Optional, List(64, NIC)),
    ("volumes", Optional, List(64, VOLUME)),
];

const CPUS: [&str; 7] = ["x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4", "armv8.0", "armv8.2", "armv9.0"];

const DISK: &[Field] = &[
    ("name", Needed, Name),
    ("sizeBytes", Needed, Size),
    ("mode", Needed, OneOf(&["overlay", "ephemeral", "read-only"])),
    ("bus", Optional, OneOf(&BUSES)),
];

const BUSES: [&str; 8] = ["virtio", "sata", "ide", "nvme", "bus-logic", "lsi-logic", "lsi-sas", "pvscsi"];

const NIC: &[Field] = &[
    ("name", Needed, Name),
    ("network", Optional, Name),
    ("model", Optional, OneOf(&["virtio", "e1000", "e1000e", "pcnet", "rtl8139", "vmxnet3"])),
];

const VOLUME: &[Field] = &[("name", Needed, Name), ("sizeBytes", Needed, Size)];

/// Checks every field of the config, and that there is no other.
pub(crate) fn check(config: &Value, report: &mut Report) {
    check_fields(config, CONFIG, "config", report);
}

/// Checks one object; its depth is that of the tables above.
fn check_fields(object: &Value, fields: &[Field], what: &str, report: &mut Report) {
    let names = object.as_object().into_iter().flat_map(|object| object.keys());
    for name in names {
        let is_known = fields.iter().any(|(known, ..)| known == name);
        report.check(Rule::ConfigFields, is_known, || format!("{what} has a field `{name}`"));
    }
    for (name, presence, values) in fields {
        let value = &object[*name];
        if value.is_null() && *presence == Optional {
            continue;
        }
        if let (List(most, fields), Some(items)) = (values, value.as_array()) {
            report.check(Rule::ConfigFields, items.len() <= *most, || {
                format!("{what} has {} {name}; the most is {most}", items.len())
            });
            for (position, item) in items.iter().enumerate() {
                check_fields(item, fields, &format!("{what}, {name} {position}"), report);
            }
            continue;
        }
        report.check(Rule::ConfigFields, values.hold(value), || format!("{what} has {value} for `{name}`"));
    }
}

impl Values {
    fn hold(self, value: &Value) -> bool {
        match self {
            Text => value.is_string(),
            Name => value.as_str().is_some_and(is_name),
            Number(least, most) => value.as_u64().is_some_and(|number| (least..=most).contains(&number)),
            Size => value.as_u64().is_some_and(|size| (512..=1 << 50).contains(&size)),
            OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            List(..) => value.is_array(),
        }
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Says why `bytes` cannot be an OVF descriptor. Of XML only so much is looked at that a box of something
/// else is seen: the encoding, no document type, an envelope as the root element.
///
/// Source: DSP0243 1.1.0, "OVF descriptor" and "XML document type"; XML 1.0, section 2.8 (prolog).
pub(crate) fn check_ovf(bytes: &[u8]) -> Result<(), String> {
    let text = decode(bytes).ok_or("is no text in UTF-8 or UTF-16")?;
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ => break,
        };
        rest = rest.split_once(end).ok_or("has a prolog without an end")?.1.trim_start();
    }
    let root = rest.strip_prefix('<').ok_or("has no root element")?;
    let name = root.split(|c: char| c.is_whitespace() || "/>".contains(c)).next().unwrap_or_default();
    match name.rsplit(':').next() {
        Some("Envelope") => Ok(()),
        _ => Err(format!("has `{name}` in place of an envelope")),
    }
}

fn decode(bytes: &[u8]) -> Option<String> {
    let utf16 = |word: fn([u8; 2]) -> u16| {
        let (words, rest) = bytes.as_chunks::<2>();
        let text = String::from_utf16(&words.iter().map(|bytes| word(*bytes)).collect::<Vec<_>>()).ok()?;
        rest.is_empty().then_some(text)
    };
    match bytes {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::Outcome;

    fn machine(edit: fn(&mut Value)) -> Outcome {
        let mut machine = json!({
            "name": "web", "arch": "amd64", "vcpus": 2, "memoryBytes": 1 << 30, "firmware": "uefi", "cpu": "x86-64-v2",
            "console": "serial", "devices": "compat", "startOrder": 0,
            "disks": [{ "name": "root", "sizeBytes": 1024, "mode": "overlay", "bus": "lsi-sas" }],
            "nics": [{ "name": "eth0", "network": "lan", "model": "vmxnet3" }],
            "volumes": [{ "name": "data", "sizeBytes": 512 }],
        });
        edit(&mut machine);
        let config =
            json!({ "formatVersion": 1, "name": "x", "version": "1", "title": "", "machines": [machine] });
        let mut report = Report::default();
        check(&config, &mut report);
        report.rows().into_iter().find(|row| row.rule == Rule::ConfigFields).unwrap().outcome
    }

    #[test]
    fn a_config_has_the_documented_fields_and_values_only() {
        assert_eq!(machine(|_| ()), Outcome::Pass);
        assert_eq!(machine(|m| drop(m["disks"][0].as_object_mut().unwrap().remove("bus"))), Outcome::Pass);
        let wrong: [fn(&mut Value); 9] = [
            |m| m["disks"][0]["bus"] = "scsi".into(),
            |m| m["disks"][0]["sizeBytes"] = 511.into(),
            |m| m["nics"][0]["model"] = "ne2k".into(),
            |m| m["nics"][0]["mac"] = "00:00:00:00:00:00".into(),
            |m| m["startOrder"] = (-1).into(),
            |m| m["startOrder"] = (1_u64 << 32).into(),
            |m| m["devices"] = "old".into(),
            |m| m["name"] = "Web".into(),
            |m| m["disks"] = vec![m["disks"][0].clone(); 65].into(),
        ];
        for (at, edit) in wrong.into_iter().enumerate() {
            assert_eq!(machine(edit), Outcome::Fail, "{at}");
        }
    }

    #[test]
    fn an_ovf_is_an_envelope_in_some_unicode() {
        let text = "<?xml version='1.0'?>\n<!-- <x> -->\n<ovf:Envelope xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1'/>";
        assert_eq!(check_ovf(text.as_bytes()), Ok(()));
        assert_eq!(check_ovf(format!("\u{feff}{text}").as_bytes()), Ok(()));
        let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(check_ovf(&utf16), Ok(()));
        let wrong: [&[u8]; 6] = [
            b"",
            b"\xff",
            b"<Domain/>",
            b"<!DOCTYPE Envelope><Envelope/>",
            b"<!-- ",
            &utf16[..utf16.len() - 1],
        ];
        for bytes in wrong {
            assert!(check_ovf(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
