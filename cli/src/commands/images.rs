//! `images`: list the appliances in the local store.

use packer::Contents;
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::text;

/// List the appliances in the local store
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One line of the list.
struct Row {
    reference: String,
    digest: appliance::Digest,
    platforms: Vec<String>,
    disk_bytes: u64,
    packed_bytes: u64,
}

pub(crate) fn run(context: &Context, args: &ImagesArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    let _hold = store.hold()?;
    let mut rows = Vec::new();
    for tagged in store.references()? {
        let contents = Contents::read(&store, &tagged.digest)?;
        let machines = contents.platforms.iter().flat_map(|platform| &platform.config.machines);
        rows.push(Row {
            reference: tagged.reference.to_string(),
            digest: tagged.digest,
            platforms: contents.platforms.iter().map(|platform| platform.platform.clone()).collect(),
            disk_bytes: machines.flat_map(|machine| &machine.disks).map(|disk| disk.size_bytes).sum(),
            packed_bytes: contents.blobs().iter().map(|blob| blob.size_bytes).sum(),
        });
    }
    if args.json {
        let rows = rows.iter().map(|row| {
            json!({ "reference": row.reference, "digest": row.digest, "platforms": row.platforms,
                "diskBytes": row.disk_bytes, "packedBytes": row.packed_bytes })
        });
        text::json(&rows.collect());
        return Ok(());
    }
    if rows.is_empty() {
        text::say("No appliances here yet; `hull pack` makes one, `hull pull` fetches one.");
        return Ok(());
    }
    let cells = |row: Row| {
        vec![
            row.reference,
            row.digest.short(),
            row.platforms.join(", "),
            text::size(row.disk_bytes),
            text::size(row.packed_bytes),
        ]
    };
    text::table(
        &["REFERENCE", "DIGEST", "PLATFORM", "DISKS", "PACKED"],
        rows.into_iter().map(cells).collect(),
    );
    Ok(())
}
