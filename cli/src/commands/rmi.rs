//! `rmi`: forget appliances of the local store, and free what nobody else needs.

use std::io::ErrorKind;

use appliance::Reference;
use blob_store::{LocalStoreError, Root, SweepError};
use packer::{ContentsError, needed_by};

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::text;

/// Remove appliances from the local store
///
/// Packs that another appliance or a VM still uses stay.
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// The appliances, as `[HOST[:PORT]/]NAME[:TAG|@DIGEST]`
    #[arg(required = true)]
    references: Vec<Reference>,
}

pub(crate) fn run(context: &Context, args: &RmiArgs) -> Result<(), CommandError> {
    let store = context.store()?;
    store.untag(&args.references)?;
    for reference in &args.references {
        text::result(format_args!("Untagged: {reference}"));
    }
    let waiting = || text::say("Waiting for a pull, pack or nbd that is under way.");
    let freed = store.sweep(|root| needed_by(&store, root), waiting);
    text::say(format_args!("Freed {}.", text::size(freed.map_err(|error| explain(context, error))?)));
    Ok(())
}

/// What cannot be followed has to go before anything else can; says how.
fn explain(context: &Context, error: SweepError<ContentsError>) -> CommandError {
    let hint = match &error {
        SweepError::Follow { root: Root::Reference(reference), .. } => {
            format!("`hull rmi {reference}`, then `hull pull` or `hull pack` it anew")
        }
        SweepError::Follow { root: Root::Pin(id), .. } => match vm_of(context, id) {
            Some(name) => format!("its VM has lost its disks: `hull rm {name}`"),
            None => format!("if no VM is left that it is for, remove `store/pins/{id}` under HULL_HOME"),
        },
        SweepError::Store(LocalStoreError::Io { path, source, .. })
            if source.kind() == ErrorKind::InvalidData =>
        {
            format!("remove `{}`, and pull or pack anew what it named", path.display())
        }
        _ => String::new(),
    };
    match error {
        SweepError::Store(error) if hint.is_empty() => error.into(),
        error => CommandError::from_error(Exit::Failed, error).hint(hint),
    }
}

/// The name of the VM that the pin `id` is for.
fn vm_of(context: &Context, id: &str) -> Option<String> {
    let listing = context.vms().ok()?.list().ok()?;
    listing.vms.into_iter().find(|vm| vm.spec.id == id).map(|vm| vm.spec.name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use appliance::manifest::{ApplianceIndex, ApplianceManifest, PlatformManifest};
    use appliance::{Blob, Digest};
    use blob_store::LocalStore;

    use super::*;

    /// An appliance in the store.
    struct Stored {
        index: Digest,
        manifest: Blob,
        policy: Digest,
        pack: Digest,
    }

    fn home() -> (tempfile::TempDir, Context, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { home: folder.path().join("home"), runtime: folder.path().join("run") };
        let store = context.store().unwrap();
        (folder, context, store)
    }

    fn store_appliance(store: &LocalStore, name: &str) -> Stored {
        let [config, policy, pack] = ["config", "policy", "pack"]
            .map(|part| store.put(format!("{part} of {name}").as_bytes()).unwrap());
        let manifest = ApplianceManifest {
            config,
            policy,
            disks: Vec::new(),
            packs: vec![pack],
            ovf: None,
            nvram: None,
        };
        let manifest = store.put(&manifest.to_bytes()).unwrap();
        let appliances = vec![PlatformManifest { platform: "linux/amd64".to_owned(), manifest }];
        let index = store.put(&ApplianceIndex { appliances }.to_bytes()).unwrap().digest;
        store.tag(&name.parse().unwrap(), &index).unwrap();
        Stored { index, manifest, policy: policy.digest, pack: pack.digest }
    }

    fn flip_a_byte(store: &LocalStore, digest: &Digest) {
        let path = store.blob_path(digest);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    fn rmi(context: &Context, names: &[&str]) -> Result<(), CommandError> {
        run(context, &RmiArgs { references: names.iter().map(|name| name.parse().unwrap()).collect() })
    }

    #[track_caller]
    fn check_fails(result: Result<(), CommandError>, message: &str, hint: &str) {
        let error = result.unwrap_err();
        assert!(text::chain(&error).contains(message), "{}", text::chain(&error));
        assert!(error.hint.as_ref().is_some_and(|found| found.contains(hint)), "{:?}", error.hint);
    }

    #[test]
    fn damage_in_a_policy_costs_no_packs() {
        let (_folder, context, store) = home();
        let [a, b] = ["a:1", "b:1"].map(|name| store_appliance(&store, name));
        flip_a_byte(&store, &a.policy);
        rmi(&context, &["b:1"]).unwrap();
        assert!(!store.contains(&b.pack));
        assert!([a.index, a.manifest.digest, a.policy, a.pack].iter().all(|blob| store.contains(blob)));
    }

    #[test]
    fn an_appliance_that_cannot_be_followed_keeps_everything_until_it_is_removed() {
        for part in [|stored: &Stored| stored.manifest.digest, |stored: &Stored| stored.index] {
            let (_folder, context, store) = home();
            let [a, b] = ["a:1", "b:1"].map(|name| store_appliance(&store, name));
            flip_a_byte(&store, &part(&a));
            check_fails(rmi(&context, &["b:1"]), "cannot tell what `a:1` (sha256:", "`hull rmi a:1`");
            assert!(store.contains(&a.pack) && store.contains(&b.pack));
            rmi(&context, &["a:1"]).unwrap();
            assert!(!store.contains(&a.pack) && !store.contains(&b.pack));
        }
    }

    #[test]
    fn a_reference_to_nothing_can_be_removed() {
        let (_folder, context, store) = home();
        let [a, b] = ["a:1", "b:1"].map(|name| store_appliance(&store, name));
        fs::remove_file(store.blob_path(&a.index)).unwrap();
        rmi(&context, &["a:1"]).unwrap();
        assert!(!store.contains(&a.pack) && store.contains(&b.pack));
    }

    #[test]
    fn a_damaged_reference_or_pin_keeps_everything_until_it_is_removed() {
        let (_folder, context, store) = home();
        let a = store_appliance(&store, "a:1");
        store_appliance(&store, "b:1");
        fs::write(store.root().join("refs/a:1"), "damaged").unwrap();
        check_fails(rmi(&context, &["b:1"]), "cannot understand", "refs/a:1`");
        assert!(store.contains(&a.pack));
        store.pin("0123abcd", &Digest::sha256(b"gone")).unwrap();
        check_fails(rmi(&context, &["a:1"]), "cannot tell what the pin `0123abcd`", "`store/pins/0123abcd`");
        assert!(store.contains(&a.pack));
    }

    #[test]
    fn nothing_is_removed_where_one_of_the_names_is_unknown() {
        let (_folder, context, store) = home();
        let a = store_appliance(&store, "a:1");
        check_fails(rmi(&context, &["a:1", "b:1"]), "no appliance `b:1`", "`hull images`");
        assert_eq!(store.resolve(&"a:1".parse().unwrap()).unwrap(), a.index);
    }
}
