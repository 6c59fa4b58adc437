//! The first step of a cycle: what is old and needed by nothing in one repository.
//!
//! A manifest that is here needs its blobs, whether a tag names it or not; the rules may let some go
//! first. Old stamps of other blobs are taken away, and so are old stamps and copies that a newer one
//! replaces.

use std::collections::{HashMap, HashSet};

use appliance::Digest;
use blob_store::{Key, StorageError};
use futures_util::TryStreamExt;

use super::collector::{Cycle, Mode};
use crate::clock::Time;
use crate::layout::{self, Stamp};
use crate::manifest::Manifest;
use crate::name::RepositoryName;
use crate::repository::RepositoryError;

/// Entries of a tag's history that are kept.
const KEPT_HISTORY: u64 = 1000;
/// Entries of a tag's history that are forgotten in one cycle.
const FORGOTTEN_AT_ONCE: usize = 1000;
/// Tags that are looked at together.
const TAGS: usize = 100;

/// A manifest that is in the repository.
#[derive(Debug)]
pub(super) struct Known {
    /// When its copies were put, oldest first.
    pub(super) copies: Vec<Time>,
    /// When the newest was.
    pub(super) newest: Time,
    pub(super) manifest: Manifest,
}

impl Cycle<'_> {
    /// Sweeps one repository, and notes which generations its stamps rely on. Of one with a damaged record
    /// nothing more is taken.
    pub(super) async fn sweep(&mut self, repository: &RepositoryName) -> Result<(), RepositoryError> {
        match self.sweep_all(repository).await {
            Err(error @ RepositoryError::Damaged { .. }) => {
                let mut keys = self.collector.storage().keys_below(&layout::all_stamps(repository));
                while let Some(key) = keys.try_next().await? {
                    if let Some((digest, stamp)) = layout::stamp_of_key(&key) {
                        self.relied_on.insert(&digest, &stamp.generation);
                    }
                }
                self.collected.damaged.push(error.to_string());
                Ok(())
            }
            swept => swept,
        }
    }

    async fn sweep_all(&mut self, repository: &RepositoryName) -> Result<(), RepositoryError> {
        self.collected.repositories += 1;
        let mut known = self.sweep_manifests(repository).await?;
        self.retire(repository, &mut known).await?;
        self.sweep_referrers(repository, &known).await?;
        let needed = known.into_values().flat_map(|known| known.manifest.blobs).collect();
        self.sweep_stamps(repository, &needed).await?;
        self.sweep_history(repository).await
    }

    /// Finds the manifests, and deletes copies that a newer one replaces.
    async fn sweep_manifests(
        &mut self,
        repository: &RepositoryName,
    ) -> Result<HashMap<Digest, Known>, RepositoryError> {
        let mut known: HashMap<Digest, Known> = HashMap::new();
        let mut keys = self.collector.storage().keys_below(&layout::all_manifests(repository));
        while let Some(key) = keys.try_next().await? {
            let Some((digest, time)) = layout::copy_of_key(&key) else { continue };
            if let Some(known) = known.get_mut(&digest) {
                let old = std::mem::replace(&mut known.newest, time);
                if self.is_old(old) {
                    known.copies.pop();
                    self.delete(&layout::manifest_copy(repository, &digest, old)).await?;
                }
                known.copies.push(time);
            } else if let Some(manifest) = self.read(repository, digest).await? {
                known.insert(digest, Known { copies: vec![time], newest: time, manifest });
            }
        }
        Ok(known)
    }

    async fn read(
        &self,
        repository: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<Manifest>, RepositoryError> {
        let read = self.collector.repositories.read_manifest(repository, digest).await?;
        let Some(stored) = read else { return Ok(None) };
        // It was checked when it was stored. Nothing is deleted on the word of a damaged record.
        Manifest::check(&stored.bytes, Some(&stored.media_type)).map(Some).map_err(|_| {
            let key = layout::manifest_copies(repository, &digest);
            RepositoryError::Damaged { key, problem: "it is not a manifest" }
        })
    }

    /// Deletes records that a crash left without their manifest, and puts those that it left missing.
    async fn sweep_referrers(
        &mut self,
        repository: &RepositoryName,
        known: &HashMap<Digest, Known>,
    ) -> Result<(), RepositoryError> {
        let repositories = &self.collector.repositories;
        let mut recorded = HashSet::new();
        let mut keys = self.collector.storage().keys_below(&layout::all_referrers(repository));
        while let Some(key) = keys.try_next().await? {
            let Some(digest) = layout::referrer_of_key(&key) else { continue };
            recorded.insert(digest);
            if !known.contains_key(&digest) && self.mode == Mode::Collect {
                let forgotten = repositories.forget_referrer(repository, &key, digest).await;
                self.lacks_space |= is_full(forgotten)?;
            }
        }
        for (digest, known) in known.iter().filter(|(digest, _)| !recorded.contains(*digest)) {
            if known.manifest.subject.is_some() && self.mode == Mode::Collect {
                let renewed = repositories.renew_referrer(repository, *digest).await;
                self.lacks_space |= is_full(renewed)?;
            }
        }
        Ok(())
    }

    /// Takes away old stamps of blobs that nothing needs, and old ones that a newer one replaces.
    async fn sweep_stamps(
        &mut self,
        repository: &RepositoryName,
        needed: &HashSet<Digest>,
    ) -> Result<(), RepositoryError> {
        let mut keys = self.collector.storage().keys_below(&layout::all_stamps(repository));
        let mut of_one_blob: Vec<Stamp> = Vec::new();
        let mut blob = None;
        while let Some(key) = keys.try_next().await? {
            let Some((digest, stamp)) = layout::stamp_of_key(&key) else { continue };
            if let Some(passed) = blob.replace(digest).filter(|passed| *passed != digest) {
                self.sweep_blob(repository, &passed, &of_one_blob, needed).await?;
                of_one_blob.clear();
            }
            of_one_blob.push(stamp);
        }
        match blob {
            Some(last) => self.sweep_blob(repository, &last, &of_one_blob, needed).await,
            None => Ok(()),
        }
    }

    async fn sweep_blob(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
        stamps: &[Stamp],
        needed: &HashSet<Digest>,
    ) -> Result<(), RepositoryError> {
        let is_needed = needed.contains(digest);
        let useless = self.useless_stamps(digest, stamps).await?;
        let mut kept = 0;
        for (place, stamp) in stamps.iter().enumerate() {
            let is_replaced = stamps[place + 1..].iter().any(|newer| newer.generation == stamp.generation);
            if self.is_old(stamp.time) && (is_replaced || !is_needed || useless.contains(&stamp)) {
                self.delete(&layout::stamp(repository, digest, stamp)).await?;
            } else {
                self.relied_on.insert(digest, &stamp.generation);
                kept += 1;
            }
        }
        if kept == 0 {
            self.collector.repositories.freed(repository);
            self.collected.unlinked_blobs += 1;
        }
        Ok(())
    }

    /// Those of a blob's stamps that nobody needs, since they lead to a generation that is closed or gone,
    /// and another one does not. Whoever put them came too late, or was stopped.
    async fn useless_stamps<'s>(
        &self,
        digest: &Digest,
        stamps: &'s [Stamp],
    ) -> Result<Vec<&'s Stamp>, RepositoryError> {
        if stamps.windows(2).all(|pair| pair[0].generation == pair[1].generation) {
            return Ok(Vec::new());
        }
        // Closed and gone are for ever. So no two collectors find each other's last stamp useless.
        let found = self.collector.repositories.generations(digest).await?;
        let (useful, useless): (Vec<_>, Vec<_>) =
            stamps.iter().partition(|stamp| found.is_kept(&stamp.generation));
        Ok(if useful.is_empty() { Vec::new() } else { useless })
    }

    /// Forgets the oldest entries of long histories.
    async fn sweep_history(&mut self, repository: &RepositoryName) -> Result<(), RepositoryError> {
        let storage = self.collector.storage();
        let folder = layout::tags(repository);
        let mut after: Option<String> = None;
        loop {
            let found = storage.list(&folder, after.as_deref(), TAGS).await?;
            for tag in found.iter().filter_map(|entry| layout::tag_of_folder(entry.name())) {
                let log = layout::tag(repository, &tag);
                let newest = storage.list(&log, None, 1).await?;
                let newest = newest.first().and_then(|entry| layout::place_of_entry(entry.name()));
                let Some(oldest_kept) = newest.and_then(|place| place.checked_sub(KEPT_HISTORY - 1)) else {
                    continue;
                };
                let after = layout::log_entry_name(oldest_kept);
                for entry in storage.list(&log, Some(&after), FORGOTTEN_AT_ONCE).await? {
                    let place = layout::place_of_entry(entry.name());
                    if let Some(place) = place.filter(|place| *place < oldest_kept) {
                        self.delete(&layout::log_entry(&log, place)).await?;
                    }
                }
            }
            match found.last() {
                Some(last) if found.len() == TAGS => after = Some(last.name().to_owned()),
                _ => return Ok(()),
            }
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), RepositoryError> {
        match self.mode {
            Mode::Collect => Ok(self.collector.storage().delete(key).await?),
            Mode::DryRun => Ok(()),
        }
    }
}

/// Whether something could not be done for want of space: what is deleted later makes some, and the next
/// cycle goes on.
pub(super) fn is_full(done: Result<(), RepositoryError>) -> Result<bool, RepositoryError> {
    match done {
        Err(RepositoryError::Storage(StorageError::Full)) => Ok(true),
        done => done.map(|()| false),
    }
}
