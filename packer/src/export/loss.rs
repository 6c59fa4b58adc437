//! What an export cannot take along: named, and judged by whether more could happen there than here.

use std::fmt;

use serde_json::{Value, json};

/// Something that the appliance asks for and the target cannot express, or does not promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The machine; `None` for the whole appliance.
    pub machine: Option<String>,
    /// The key in hull.toml, with the rule's name in place of its number: `firewall.ingress.http.rate`.
    pub key: String,
    /// What becomes of it there.
    pub becomes: String,
    /// What that does to what can happen.
    pub effect: Effect,
}

/// What a loss does to what can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// More can happen there than the appliance allows.
    Wider,
    /// Less can happen there than the appliance allows.
    Narrower,
    /// Nobody can reach more or less; something else is not as it was.
    Other,
}

impl Effect {
    /// The name that tables and `--json` use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wider => "wider",
            Self::Narrower => "narrower",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Loss {
    /// For other programs.
    pub fn to_json(&self) -> Value {
        json!({
            "machine": self.machine, "key": self.key, "becomes": self.becomes, "effect": self.effect.as_str(),
        })
    }
}

/// What an export cannot take along, as it is found out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LossReport {
    /// What this appliance asks for and the target cannot express. Nothing is exported with losses unless
    /// somebody agrees.
    pub losses: Vec<Loss>,
    /// What the target does not promise for any appliance. To be said each time.
    pub notices: Vec<Loss>,
}

impl LossReport {
    pub(super) fn lose(
        &mut self,
        machine: Option<&str>,
        key: impl Into<String>,
        effect: Effect,
        becomes: impl Into<String>,
    ) {
        self.losses.push(loss(machine, key, effect, becomes));
    }

    pub(super) fn notice(
        &mut self,
        machine: Option<&str>,
        key: impl Into<String>,
        effect: Effect,
        becomes: impl Into<String>,
    ) {
        self.notices.push(loss(machine, key, effect, becomes));
    }
}

fn loss(machine: Option<&str>, key: impl Into<String>, effect: Effect, becomes: impl Into<String>) -> Loss {
    Loss { machine: machine.map(str::to_owned), key: key.into(), becomes: becomes.into(), effect }
}
