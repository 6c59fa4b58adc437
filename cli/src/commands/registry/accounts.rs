//! What `registry user` and `registry token` share: rights as arguments and in lists.

use registry::Grant;

/// Rights of an account.
#[derive(Debug, clap::Args)]
pub(super) struct GrantArgs {
    /// What it may do where, as PREFIX:ACTIONS: `team:pull,push`, `*:pull`, `team/web:admin`; can be repeated
    #[arg(long = "grant", value_name = "PREFIX:ACTIONS", required = true)]
    pub(super) grants: Vec<Grant>,
}

/// Rights, as a list shows them.
pub(super) fn rights(grants: &[Grant]) -> String {
    match grants {
        [] => "none".to_owned(),
        grants => grants.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Rights, as they are given.
pub(super) fn texts(grants: &[Grant]) -> Vec<String> {
    grants.iter().map(ToString::to_string).collect()
}
