//! An appliance whose parts are opened in, the same in the local store out.
//!
//! Where the parts come from is the business of those who open them: [`open_folder`](crate::open_folder) for
//! what an author wrote, [`import`](crate::import) for what another platform made. From here on there is one way.

use appliance::manifest::{ApplianceIndex, ApplianceManifest, DiskLayer, PlatformManifest};
use appliance::{ApplianceConfig, Blob, ConfigError, Digest, Policy};
use blob_store::{LocalStore, LocalStoreError};
use formats::Disk;

use crate::contents::{Contents, ContentsError, Platform};
use crate::disks::{Base, BaseError, PackOptions, PackedDisks, Progress, WriteError, write_disks};

/// All that an appliance is made of.
#[derive(Debug)]
pub struct Appliance {
    // Invariant: passes its own check, and its disks are those of `disks`, in order and in size.
    config: ApplianceConfig,
    policy: Policy,
    disks: Vec<Box<dyn Disk>>,
    ovf: Option<Vec<u8>>,
}

/// How an appliance is packed.
#[derive(Debug, Clone, Copy, Default)]
pub struct PackRequest {
    /// The index of an earlier version whose packs are used again where they fit.
    pub base: Option<Digest>,
    /// How disks are packed.
    pub options: PackOptions,
}

/// An appliance that has been packed. No reference names it yet.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The index: what a tag is to name.
    pub index: Blob,
    /// The artifact manifest: what the appliance is.
    pub manifest: Blob,
    /// What it consists of.
    pub config: ApplianceConfig,
    /// The disks, with what packing them came to.
    pub disks: PackedDisks,
}

/// Why nothing was packed. The store holds nothing new that a reference leads to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The base cannot be used.
    #[error("the base cannot be used")]
    Base(#[source] BaseError),
    /// The base cannot be read.
    #[error("the base cannot be read")]
    BaseContents(#[source] ContentsError),
    /// A disk could not be packed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl Appliance {
    /// An appliance of these parts: `disks` are the config's, in its order, and give it their sizes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] where the config cannot be: with a disk of an impossible size, for instance.
    ///
    /// # Panics
    ///
    /// If there are more or fewer disks than the config has.
    pub fn new(
        mut config: ApplianceConfig,
        policy: Policy,
        disks: Vec<Box<dyn Disk>>,
        ovf: Option<Vec<u8>>,
    ) -> Result<Self, ConfigError> {
        let sized: Vec<_> = config.machines.iter_mut().flat_map(|machine| &mut machine.disks).collect();
        assert_eq!(sized.len(), disks.len(), "the config's disks are opened");
        sized.into_iter().zip(&disks).for_each(|(entry, disk)| entry.size_bytes = disk.size_bytes());
        config.check()?;
        Ok(Self { config, policy, disks, ovf })
    }

    /// What it consists of.
    pub fn config(&self) -> &ApplianceConfig {
        &self.config
    }

    /// What it asks of its host.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The OVF descriptor that it came from.
    pub fn ovf(&self) -> Option<&[u8]> {
        self.ovf.as_deref()
    }

    /// The disks by name, in the config's order.
    pub fn disks(&self) -> impl Iterator<Item = (&str, &dyn Disk)> {
        let names = self.config.machines.iter().flat_map(|machine| &machine.disks);
        names.map(|disk| disk.name.as_str()).zip(self.disks.iter().map(|disk| &**disk))
    }

    /// Packs it into `store`.
    ///
    /// Packing the same again gives the same digests: with equal disks, base and hull, all of it; and an
    /// appliance that is what its base was *is* its base.
    ///
    /// # Errors
    ///
    /// [`PackError`].
    pub fn pack(
        &self,
        request: &PackRequest,
        store: &LocalStore,
        progress: &dyn Progress,
    ) -> Result<Packed, PackError> {
        let mut config = self.config.clone();
        let base =
            request.base.map(|digest| base_of(store, &digest, &config.platform())).transpose()?.flatten();
        let base_disks = base
            .as_ref()
            .map(|base| Base::read(&base.manifest, store))
            .transpose()
            .map_err(PackError::Base)?;
        let named: Vec<(&str, &dyn Disk)> = self.disks().collect();
        let disks = write_disks(&named, base_disks.as_ref(), store, &request.options, progress)?;

        let policy = store.put(&self.policy.to_bytes())?;
        let ovf = self.ovf.as_deref().map(|ovf| store.put(ovf)).transpose()?;
        let layers = disks.disks.iter().map(|disk| DiskLayer {
            name: disk.name.clone(),
            index: disk.index,
            root: disk.root,
        });
        let layers: Vec<_> = layers.collect();
        let manifest_of = |config: &ApplianceConfig| -> Result<Blob, LocalStoreError> {
            let config = store.put(&config.to_bytes())?;
            let (disks, packs) = (layers.clone(), disks.packs.clone());
            let manifest = ApplianceManifest { config, policy, disks, packs, ovf, nvram: None };
            store.put(&manifest.to_bytes())
        };
        let manifest = match &base {
            None => manifest_of(&config)?,
            Some(base) => {
                // With the base's own parent, is it the base?
                config.parent = base.config.parent;
                let same = manifest_of(&config)?;
                if same == base.manifest_blob {
                    same
                } else {
                    config.parent = Some(base.manifest_blob.digest);
                    manifest_of(&config)?
                }
            }
        };
        let index =
            ApplianceIndex { appliances: vec![PlatformManifest { platform: config.platform(), manifest }] };
        let index = store.put(&index.to_bytes())?;
        Ok(Packed { index, manifest, config, disks })
    }
}

/// The base for this platform; `None` where the base is for others only.
fn base_of(store: &LocalStore, digest: &Digest, platform: &str) -> Result<Option<Platform>, PackError> {
    let contents = Contents::read(store, digest).map_err(PackError::BaseContents)?;
    Ok(contents.platforms.into_iter().find(|entry| entry.platform == platform))
}
