//! KubeVirt's containerDisks: container images whose only content is a disk.
//!
//! The disk is the one file in the folder `disk` of the image, or else the one file at its root; a later layer's file
//! takes the place of an earlier one's of the same name, and its whiteouts take away what earlier ones have. It is raw or
//! qcow2, and nothing stands behind it. What else there is in the layers, links among it, is passed over.
//!
//! Images come out of archives here (an OCI image layout, or what `docker save` writes), or from whoever has fetched
//! their layers.
//!
//! Source: KubeVirt's documentation, "containerDisk"; OCI image-spec 1.1, "Image Layout", "Image Layer Filesystem
//! Changeset"; Moby's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::collections::BTreeMap;
use std::fs::File;

use appliance::{Arch, Devices, Digest, media_type};
use formats::image::{self as images, Format, Source};
use formats::tar::Members;
use serde::Deserialize;

use super::draft::{Assumed, Draft, DraftImage, NamedSource};
use super::unpack::{Packing, Room, unpack};
use super::{Import, ImportError, ImportRequest, Kind, archive, image};
use crate::Progress;

/// The folder that the disk is in.
const FOLDER: &str = "disk";
/// What the name of a file begins with that takes another one away.
const WHITEOUT: &str = ".wh.";
/// The file that takes everything away that earlier layers have in its folder.
const OPAQUE: &str = ".wh..wh..opq";
const OCI_INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";
/// Indexes that lead to one another.
const MAX_DEPTH: usize = 4;
/// The most layers of an image: what container engines accept.
const MAX_LAYERS: usize = 128;

const DEVICES: Assumed<Devices> =
    Assumed { value: Devices::Virtio, why: "KubeVirt's machines have virtio where they say nothing" };

/// A container image whose layers are at hand.
#[derive(Debug)]
pub struct ContainerImage {
    /// Its config, as JSON.
    config: Vec<u8>,
    /// Its layers, the lowest first: tar archives, compressed or not.
    layers: Vec<Source>,
}

impl ContainerImage {
    /// An image of a config and layers that have been fetched, each a file.
    ///
    /// # Errors
    ///
    /// [`ImportError::Image`] where one of them is no file.
    pub fn new(config: Vec<u8>, layers: Vec<File>) -> Result<Self, ImportError> {
        let layers = layers.into_iter().enumerate().map(|(n, file)| {
            Source::new(file).map_err(|reason| ImportError::image(&format!("layer {}", n + 1), reason))
        });
        Ok(Self { config, layers: layers.collect::<Result<_, _>>()? })
    }
}

/// What is read of an image's config.
#[derive(Debug, Deserialize)]
struct Config {
    architecture: Option<String>,
}

/// What is read of an OCI index or manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    artifact_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: Option<String>,
}

/// An entry of the list that `docker save` writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

impl Document {
    /// Whether it is of an appliance of hull's. Some tools drop the type of the artifact, but none that of its config.
    fn is_of_appliance(&self) -> bool {
        let entries = self.manifests.iter().flatten().map(|entry| &entry.artifact_type);
        let mut types = entries.chain([&self.artifact_type]).flatten();
        let config = self.config.as_ref().and_then(|config| config.media_type.as_deref());
        types.any(|found| found == media_type::APPLIANCE) || config == Some(media_type::CONFIG)
    }
}

/// Whether the archive holds container images.
pub(super) fn is_archive(members: &Members) -> bool {
    members.get(OCI_INDEX).is_some() || members.get(DOCKER_MANIFEST).is_some()
}

/// Whether this is what `docker save` writes, and nothing else besides.
pub(super) fn is_saved_by_docker(members: &Members) -> bool {
    let is_part = |name: &str| {
        let json = name.ends_with(".json") || name == "repositories" || name.ends_with("/VERSION");
        json || name.ends_with(".tar") || name.ends_with("/json") || name.starts_with("blobs/")
    };
    members.get(DOCKER_MANIFEST).is_some() && members.iter().all(|member| is_part(&member.name))
}

/// The one image in an archive.
pub(super) fn of_archive(members: &Members, request: &ImportRequest<'_>) -> Result<Import, ImportError> {
    let image = match archive::small(members, OCI_INDEX)? {
        Some(index) => Layout { members, progress: request.progress }.image(index, request)?,
        None => of_docker(members)?,
    };
    import(&image, request)
}

/// The machine whose disk is in `image`.
pub(super) fn import(image: &ContainerImage, request: &ImportRequest<'_>) -> Result<Import, ImportError> {
    let config: Config = parse("the image's config", &image.config)?;
    let (name, source) = disk(image, request.room())?;
    let format = images::detect(&source).map_err(|reason| ImportError::image(&name, reason))?;
    if !matches!(format, Format::Raw | Format::Qcow2) {
        return Err(ImportError::ContainerFormat { name, found: format });
    }
    let mut draft = Draft::new(Kind::ContainerDisk, &request.default_name(), request);
    let layers = vec![NamedSource { source, name }];
    let disk = DraftImage { layers, format: Some(format), said_bytes: None };
    let mut machine = image::alone(&draft.name, disk, DEVICES);
    machine.arch = match config.architecture.as_deref() {
        Some("arm64") => Some(Arch::Arm64),
        Some("amd64") => Some(Arch::Amd64),
        _ => None,
    };
    draft.machines.push(machine);
    draft.open(request, None)
}

/// The disk in an image, with its name.
fn disk(image: &ContainerImage, room: Room<'_>) -> Result<(String, Source), ImportError> {
    let mut files: BTreeMap<String, Source> = BTreeMap::new();
    // One layer may be named 128 times, and each would be unpacked.
    let mut left = room.most_bytes;
    for (n, layer) in image.layers.iter().enumerate() {
        let name = format!("layer {}", n + 1);
        let mut start = [0; 4];
        let len = layer.size_bytes().min(4) as usize;
        let read = layer.read_exact_at(&mut start[..len], 0);
        read.map_err(|source| ImportError::Member { name: name.clone(), source })?;
        let layer = match Packing::detect(&start) {
            Some(packing) => {
                let unpacked = unpack((layer, &name), packing, Room { most_bytes: left, ..room })?;
                left -= unpacked.size_bytes();
                unpacked
            }
            None => layer.clone(),
        };
        let members =
            Members::read_folder(&layer, FOLDER).map_err(|source| ImportError::Archive { name, source })?;
        let (whiteouts, added): (Vec<_>, Vec<_>) =
            members.iter().partition(|member| split(&member.name).1.starts_with(WHITEOUT));
        for whiteout in whiteouts {
            files.retain(|name, _| !takes_away(&whiteout.name, name));
        }
        files.extend(added.into_iter().map(|member| (member.name.clone(), members.source(member))));
    }
    let in_folder: Vec<_> = files.iter().filter(|(name, _)| name.contains('/')).collect();
    let at_root: Vec<_> = files.iter().filter(|(name, _)| !name.contains('/')).collect();
    match (&*in_folder, &*at_root) {
        ([(name, disk)], _) | ([], [(name, disk)]) => Ok(((*name).clone(), (*disk).clone())),
        ([], _) => Err(ImportError::NoDisk),
        (several, _) => {
            let names = several.iter().take(4).map(|(name, _)| (*name).clone()).collect();
            Err(ImportError::SeveralDisks { names })
        }
    }
}

/// Whether the file `whiteout` of a layer takes away the file `name` of an earlier one.
fn takes_away(whiteout: &str, name: &str) -> bool {
    let (folder, file) = split(whiteout);
    let Some(rest) = name.strip_prefix(folder) else { return false };
    let taken = file.strip_prefix(WHITEOUT).and_then(|taken| rest.strip_prefix(taken));
    file == OPAQUE || taken.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The folders of a name, with the slash behind them, and the file.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('/').map_or(0, |slash| slash + 1))
}

/// An OCI image layout.
#[derive(Clone, Copy)]
struct Layout<'a> {
    members: &'a Members,
    progress: &'a dyn Progress,
}

impl Layout<'_> {
    /// The one image that `index` leads to.
    fn image(self, index: Vec<u8>, request: &ImportRequest<'_>) -> Result<ContainerImage, ImportError> {
        let wanted = request.wishes.arch.unwrap_or(Arch::Amd64).as_str();
        let mut bytes = index;
        for _ in 0..MAX_DEPTH {
            let document: Document = parse("an index or manifest of the image", &bytes)?;
            if document.is_of_appliance() {
                return Err(ImportError::Appliance);
            }
            if let Some(manifests) = document.manifests {
                bytes = self.small_blob(select(&manifests, wanted)?)?;
                continue;
            }
            let (Some(config), layers) = (document.config, document.layers.unwrap_or_default()) else {
                break;
            };
            let config = self.small_blob(&config)?;
            check_count(layers.len())?;
            let layers = layers.iter().map(|layer| self.blob(layer)).collect::<Result<_, _>>()?;
            return Ok(ContainerImage { config, layers });
        }
        Err(ImportError::NoImage)
    }

    fn small_blob(self, descriptor: &Descriptor) -> Result<Vec<u8>, ImportError> {
        archive::read_whole(&self.blob(descriptor)?, &descriptor.digest)
    }

    /// A blob, which has the digest and the size that its descriptor says.
    fn blob(self, descriptor: &Descriptor) -> Result<Source, ImportError> {
        let wanted: Digest = descriptor
            .digest
            .parse()
            .map_err(|source| ImportError::BadDigest { found: descriptor.digest.clone(), source })?;
        let name = format!("blobs/{}/{}", wanted.algorithm().as_str(), wanted.hex());
        let member =
            self.members.get(&name).ok_or_else(|| ImportError::MissingFile { name: name.clone() })?;
        let source = self.members.source(member);
        let mut hasher = appliance::Hasher::new(wanted.algorithm());
        let mut piece = vec![0; 1 << 20];
        let mut at = 0;
        while at < source.size_bytes() {
            let len = (source.size_bytes() - at).min(piece.len() as u64) as usize;
            let read = source.read_exact_at(&mut piece[..len], at);
            read.map_err(|source| ImportError::Member { name: name.clone(), source })?;
            hasher.update(&piece[..len]);
            at += len as u64;
            self.progress.prepared(&name, at, source.size_bytes());
        }
        let found = hasher.finish();
        if found != wanted || source.size_bytes() != descriptor.size {
            return Err(ImportError::WrongDigest { name, found, found_bytes: source.size_bytes() });
        }
        Ok(source)
    }
}

/// The manifest for the wanted architecture; the only one, whatever it is for.
fn select<'a>(manifests: &'a [Descriptor], wanted: &str) -> Result<&'a Descriptor, ImportError> {
    let is_wanted = |entry: &&Descriptor| {
        let platform = entry.platform.as_ref();
        platform.is_some_and(|platform| {
            platform.architecture == wanted && platform.os.as_deref().is_none_or(|os| os == "linux")
        })
    };
    match manifests {
        [only] => Ok(only),
        several => several.iter().find(is_wanted).ok_or(ImportError::NoImage),
    }
}

/// The image in what `docker save` writes. Its layers have no digests of their own.
fn of_docker(members: &Members) -> Result<ContainerImage, ImportError> {
    let list = archive::small(members, DOCKER_MANIFEST)?.unwrap_or_default();
    let list: Vec<Saved> = parse(DOCKER_MANIFEST, &list)?;
    let [saved] = &*list else { return Err(ImportError::NoImage) };
    check_count(saved.layers.len())?;
    let missing = |name: &String| ImportError::MissingFile { name: name.clone() };
    let config = archive::small(members, &saved.config)?.ok_or_else(|| missing(&saved.config))?;
    let layers = saved.layers.iter().map(|name| match members.get(name) {
        Some(member) => Ok(members.source(member)),
        None => Err(missing(name)),
    });
    Ok(ContainerImage { config, layers: layers.collect::<Result<_, _>>()? })
}

fn check_count(layers: usize) -> Result<(), ImportError> {
    if layers > MAX_LAYERS {
        Err(ImportError::ManyLayers { found: layers, most: MAX_LAYERS })
    } else {
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(name: &'static str, json: &'a [u8]) -> Result<T, ImportError> {
    serde_json::from_slice(json).map_err(|source| ImportError::Document { name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_images_the_one_for_linux_is_taken() {
        let entry = |digest: &str, platform: &str| {
            let json = format!(r#"{{"digest":"{digest}","size":1,"platform":{platform}}}"#);
            serde_json::from_str::<Descriptor>(&json).unwrap()
        };
        let windows = entry("a", r#"{"architecture":"amd64","os":"windows"}"#);
        let linux = entry("b", r#"{"architecture":"amd64","os":"linux"}"#);
        let unsaid = entry("c", r#"{"architecture":"arm64"}"#);
        let all = [windows, linux, unsaid];
        assert_eq!(select(&all, "amd64").unwrap().digest, "b");
        assert_eq!(select(&all, "arm64").unwrap().digest, "c");
        assert!(matches!(select(&all[..2], "arm64"), Err(ImportError::NoImage)));
        assert_eq!(select(&all[..1], "arm64").unwrap().digest, "a");
    }

    #[test]
    fn a_whiteout_takes_away_what_it_names_and_what_is_in_it() {
        for (whiteout, name, want) in [
            ("disk/.wh.a", "disk/a", true),
            ("disk/.wh.a", "disk/a/b", true),
            ("disk/.wh.a", "disk/ab", false),
            ("disk/.wh.a", "a", false),
            (".wh.disk", "disk/a", true),
            (".wh.disk", "disks", false),
            ("disk/.wh..wh..opq", "disk/a", true),
            ("disk/.wh..wh..opq", "a", false),
            (".wh..wh..opq", "disk/a", true),
        ] {
            assert_eq!(takes_away(whiteout, name), want, "{whiteout} {name}");
        }
    }
}
