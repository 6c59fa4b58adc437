//! What `nft -j` says about what is loaded: counters, and whether the rules are the ones that were meant.
//!
//! Source: libnftables-json(5), json_schema_version 1.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::TABLE;
use super::interfaces::Interfaces;
use super::rules::{denial_counter, over_rate_counter, rule_counter, tables};
use super::text::{Base, Chain, Table, Verdict};
use crate::compile::Compiled;
use crate::vocabulary::{Denial, Direction};

/// What the kernel counted since the rules were loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// New connections that each rule let pass (more exactly: their packets until they were answered). An ingress
    /// rule's are those of the relay; of several rules for one port the first one counts.
    pub rules: BTreeMap<(Direction, String), Count>,
    /// New connections that each egress rule's rate turned away. Another rule may still have let them pass.
    pub over_rate: BTreeMap<String, Count>,
    /// What was dropped, by reason. Reasons that the rules have no use for are missing.
    pub denied: BTreeMap<Denial, Count>,
}

/// Packets, and the bytes in them from the IP header on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many packets.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why `nft`'s answer cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the answer of `nft -j` is not what libnftables-json(5) says")]
pub struct ListingError(#[from] serde_json::Error);

/// Why loaded rules are not the ones that were meant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not an answer of nft.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// A table or chain is not there.
    #[error("{what} is not loaded")]
    Missing {
        /// The table or chain.
        what: String,
    },
    /// Something is loaded that is not hull's.
    #[error("{what} is loaded in the machine's network namespace and is not hull's")]
    Foreign {
        /// The table or chain, control characters escaped.
        what: String,
    },
    /// Something is loaded otherwise than it was meant.
    #[error("{place}: found {found}, wanted {wanted}")]
    Differs {
        /// The chain, or a rule in it.
        place: String,
        /// What the kernel has, control characters escaped.
        found: String,
        /// What was meant.
        wanted: String,
    },
}

/// Reads the counters of a machine's namespace: what `nft -j list counters` printed.
///
/// # Errors
///
/// [`ListingError`] where that is not what nft prints. Counters that are not hull's are passed over.
pub fn parse_counters(nft_json: &str) -> Result<Counters, ListingError> {
    let reasons: HashMap<String, Denial> =
        Denial::ALL.into_iter().map(|denial| (denial_counter(denial), denial)).collect();
    let mut counters = Counters::default();
    for object in parse(nft_json)? {
        let Object::Counter(CounterWire { table, name, packets, bytes }) = object else { continue };
        if table != TABLE {
            continue;
        }
        let slot = if let Some(denial) = reasons.get(&name) {
            counters.denied.entry(*denial).or_default()
        } else if let Some(rule) = named(&name, &over_rate_counter("")) {
            counters.over_rate.entry(rule).or_default()
        } else if let Some(rule) = named(&name, &rule_counter(Direction::Ingress, "")) {
            counters.rules.entry((Direction::Ingress, rule)).or_default()
        } else if let Some(rule) = named(&name, &rule_counter(Direction::Egress, "")) {
            counters.rules.entry((Direction::Egress, rule)).or_default()
        } else {
            continue;
        };
        slot.packets = slot.packets.saturating_add(packets);
        slot.bytes = slot.bytes.saturating_add(bytes);
    }
    Ok(counters)
}

/// The rule that a counter is named after.
fn named(counter: &str, prefix: &str) -> Option<String> {
    counter.strip_prefix(prefix).map(|rule| rule.replace('_', "-"))
}

/// Compares what is loaded in the namespace - what `nft -j list ruleset` printed - with what
/// [`ruleset`](super::ruleset) says: the tables, the chains with their hooks, priorities and policies, and of each
/// rule, in order, what it counts and what becomes of the packet. A load is all or nothing, so that this tells a
/// loaded policy from another one, from a part of one, and from one that somebody changed.
///
/// # Errors
///
/// [`VerifyError`]: the first difference. The machine must not run then.
pub fn verify(compiled: &Compiled, interfaces: &Interfaces, nft_json: &str) -> Result<(), VerifyError> {
    let mut loaded = Loaded::read(nft_json)?;
    for table in &tables(compiled, interfaces) {
        let family = table.family.as_str();
        let at = loaded.tables.iter().position(|(found, name)| found == family && name == TABLE);
        let at = at.ok_or_else(|| VerifyError::Missing { what: format!("table {family} {TABLE}") })?;
        loaded.tables.remove(at);
        table.chains.iter().try_for_each(|chain| loaded.check_chain(table, chain))?;
    }
    if let Some((family, name)) = loaded.tables.first() {
        return Err(VerifyError::Foreign { what: escaped(&format!("table {family} {name}")) });
    }
    match loaded.chains.keys().next() {
        Some((family, name)) => {
            Err(VerifyError::Foreign { what: escaped(&format!("chain {family} {name}")) })
        }
        None => Ok(()),
    }
}

/// A ruleset as nft lists it.
struct Loaded {
    tables: Vec<(String, String)>,
    chains: HashMap<(String, String), ChainWire>,
    rules: HashMap<(String, String), Vec<Vec<Value>>>,
}

impl Loaded {
    fn read(nft_json: &str) -> Result<Self, ListingError> {
        let mut loaded = Self { tables: Vec::new(), chains: HashMap::new(), rules: HashMap::new() };
        for object in parse(nft_json)? {
            match object {
                Object::Table(TableWire { family, name }) => loaded.tables.push((family, name)),
                Object::Chain(chain) if chain.table == TABLE => {
                    loaded.chains.insert((chain.family.clone(), chain.name.clone()), chain);
                }
                Object::Rule(rule) if rule.table == TABLE => {
                    loaded.rules.entry((rule.family, rule.chain)).or_default().push(rule.expr);
                }
                _ => {}
            }
        }
        Ok(loaded)
    }

    /// Compares one chain, and takes it off the list of those that were not asked for.
    fn check_chain(&mut self, table: &Table, chain: &Chain) -> Result<(), VerifyError> {
        let family = table.family.as_str();
        let place = format!("chain {family} {}", chain.name);
        let key = (family.to_owned(), chain.name.clone());
        let found = self.chains.remove(&key).ok_or_else(|| VerifyError::Missing { what: place.clone() })?;
        differs(&place, &found.describe(chain.base.as_ref()), &describe_base(chain.base.as_ref()))?;
        let rules = self.rules.remove(&key).unwrap_or_default();
        differs(&place, &format!("{} rules", rules.len()), &format!("{} rules", chain.rules.len()))?;
        for (index, (found, wanted)) in rules.iter().zip(&chain.rules).enumerate() {
            let wanted = describe_effect(wanted.counter.as_deref(), wanted.verdict.as_ref());
            differs(&format!("{place}, rule {}", index + 1), &listed_effect(found), &wanted)?;
        }
        Ok(())
    }
}

fn differs(place: &str, found: &str, wanted: &str) -> Result<(), VerifyError> {
    if found == wanted {
        return Ok(());
    }
    Err(VerifyError::Differs { place: place.to_owned(), found: escaped(found), wanted: wanted.to_owned() })
}

fn describe_base(base: Option<&Base>) -> String {
    let Some(Base { kind, hook, device, priority, policy }) = base else { return "no hook".to_owned() };
    format!("{kind} {hook} {} {priority} {policy}", device.as_deref().unwrap_or("-"))
}

fn describe_effect(counter: Option<&str>, verdict: Option<&Verdict>) -> String {
    let verdict = verdict.map_or_else(|| "-".to_owned(), ToString::to_string);
    format!("counter {}, {verdict}", counter.unwrap_or("-"))
}

/// What a listed rule counts and what becomes of the packet, in the words of [`describe_effect`].
fn listed_effect(expressions: &[Value]) -> String {
    let counter =
        expressions.iter().find_map(|e| e.get("counter")).map(|name| name.as_str().unwrap_or("anonymous"));
    let verdict = expressions.last().and_then(|last| {
        let (kind, value) = last.as_object()?.iter().next()?;
        let target = || value.get("target").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "accept" => Some(Verdict::Accept),
            "drop" => Some(Verdict::Drop),
            "return" => Some(Verdict::Return),
            "masquerade" => Some(Verdict::Masquerade),
            "jump" => Some(Verdict::Jump(target())),
            "goto" => Some(Verdict::Goto(target())),
            _ => None,
        }
    });
    describe_effect(counter, verdict.as_ref())
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

/// One object of nft's answer, as far as this module cares.
enum Object {
    Table(TableWire),
    Chain(ChainWire),
    Rule(RuleWire),
    Counter(CounterWire),
}

fn parse(nft_json: &str) -> Result<Vec<Object>, ListingError> {
    #[derive(Deserialize)]
    struct Answer {
        nftables: Vec<HashMap<String, Value>>,
    }
    let answer: Answer = serde_json::from_str(nft_json)?;
    let mut objects = Vec::new();
    for (kind, value) in answer.nftables.into_iter().flatten() {
        objects.push(match kind.as_str() {
            "table" => Object::Table(serde_json::from_value(value)?),
            "chain" => Object::Chain(serde_json::from_value(value)?),
            "rule" => Object::Rule(serde_json::from_value(value)?),
            "counter" => Object::Counter(serde_json::from_value(value)?),
            _ => continue,
        });
    }
    Ok(objects)
}

#[derive(Deserialize)]
struct TableWire {
    family: String,
    name: String,
}

#[derive(Deserialize)]
struct ChainWire {
    family: String,
    table: String,
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    /// A name, or several; nft 1.0.6 leaves it out.
    dev: Option<Value>,
    prio: Option<i64>,
    policy: Option<String>,
}

impl ChainWire {
    /// In the words of [`describe_base`]. A device that nft does not list is taken to be the one of `wanted`.
    fn describe(&self, wanted: Option<&Base>) -> String {
        let (Some(kind), Some(hook), Some(priority)) = (&self.kind, &self.hook, self.prio) else {
            return "no hook".to_owned();
        };
        let device = match &self.dev {
            None => wanted.and_then(|base| base.device.clone()).unwrap_or_else(|| "-".to_owned()),
            Some(Value::String(name)) => name.clone(),
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Some(other) => other.to_string(),
        };
        format!("{kind} {hook} {device} {priority} {}", self.policy.as_deref().unwrap_or("accept"))
    }
}

#[derive(Deserialize)]
struct RuleWire {
    family: String,
    table: String,
    chain: String,
    #[serde(default)]
    expr: Vec<Value>,
}

#[derive(Deserialize)]
struct CounterWire {
    table: String,
    name: String,
    packets: u64,
    bytes: u64,
}
