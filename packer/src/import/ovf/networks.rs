//! Which of an OVF's networks are private between its machines, and which are the outside.
//!
//! An OVF does not say. A network is private here if two machines are on it and its name or description says so in
//! words; whatever else there is becomes the outside, where the firewall stands.

use std::collections::{BTreeMap, BTreeSet};

use formats::ovf::Descriptor;

use super::super::names::Names;
use super::super::notice::{Notice, What};

/// Words of a network that leads nowhere else.
const PRIVATE_WORDS: [&str; 7] =
    ["internal", "private", "isolated", "host-only", "hostonly", "intnet", "backend"];

/// The networks that NICs are on.
#[derive(Debug)]
pub(super) struct Networks {
    /// By its name in the OVF: its name here; `None` for the outside.
    by_name: BTreeMap<String, Option<String>>,
}

impl Networks {
    pub(super) fn of(descriptor: &Descriptor) -> Self {
        let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for system in &descriptor.systems {
            for network in system.hardware.nics.iter().filter_map(|nic| nic.network.as_deref()) {
                users.entry(network).or_default().insert(&system.id);
            }
        }
        let mut names = Names::default();
        let by_name = users.into_iter().map(|(name, users)| {
            let description = descriptor.networks.iter().find(|network| network.name == name);
            let description = description.and_then(|network| network.description.as_deref());
            let is_private = users.len() > 1
                && [Some(name), description].into_iter().flatten().any(|text| {
                    let text = text.to_lowercase();
                    PRIVATE_WORDS.iter().any(|word| text.contains(word))
                });
            (name.to_owned(), is_private.then(|| names.give(name, "private")))
        });
        Self { by_name: by_name.collect() }
    }

    /// The private network that `name` became; `None` for the outside.
    pub(super) fn private(&self, name: &str) -> Option<&str> {
        self.by_name.get(name)?.as_deref()
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = Notice> {
        self.by_name.iter().map(|(network, private)| {
            let network = network.clone();
            let what = match private.clone() {
                Some(name) => What::PrivateNetwork { network, name },
                None => What::Outside { network },
            };
            Notice { machine: None, what }
        })
    }
}
