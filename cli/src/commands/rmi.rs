//! `rmi`: forget appliances of the local store, and free what nobody else needs.

use appliance::{Digest, Reference};
use blob_store::LocalStore;
use packer::{Contents, Platform};

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// Remove appliances from the local store
///
/// Packs that another appliance or a VM still uses stay.
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// The appliances, as `[HOST[:PORT]/]NAME[:TAG]`
    #[arg(required = true)]
    references: Vec<Reference>,
}

pub(crate) fn run(context: &Context, args: &RmiArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    for reference in &args.references {
        store.untag(reference)?;
        text::result(format_args!("Untagged: {reference}"));
    }
    let freed = store.sweep(|root| leads_to(&store, root))?;
    text::say(format_args!("Freed {}.", text::size(freed)));
    Ok(())
}

/// Everything that an index (of a reference) or a manifest (pinned by a VM) needs.
fn leads_to(store: &LocalStore, root: &Digest) -> Vec<Digest> {
    let mut needed = vec![*root];
    if let Ok(contents) = Contents::read(store, root) {
        needed.extend(contents.blobs().iter().map(|blob| blob.digest));
    } else if let Ok(platform) = Platform::open(store, root) {
        needed.extend(platform.blobs().iter().map(|blob| blob.digest));
    }
    needed
}
