//! What the rules let go in one repository, and what of its manifests stays.
//!
//! The rules decide by age ([`crate::rules`]). Here is what they cannot know: what an index that stays
//! names stays, and so does what is about a manifest that stays.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use appliance::Digest;

use super::collector::{Cycle, Mode, Retired};
use super::sweep::{Known, is_full};
use crate::name::RepositoryName;
use crate::repository::{Author, Authority, LiveTag, RepositoryError};

/// Who the history of tags says that it was.
const RETENTION: Author<'_> = Author { name: "retention", authority: Authority::Ordinary };

impl Cycle<'_> {
    /// Deletes the tags and manifests that the rules let go, and takes those manifests out of `known`.
    pub(super) async fn retire(
        &mut self,
        repository: &RepositoryName,
        known: &mut HashMap<Digest, Known>,
    ) -> Result<(), RepositoryError> {
        let rules = self.collector.repositories.rules();
        if !rules.of(repository.as_str()).any(|rule| rule.has_retention()) {
            return Ok(());
        }
        let tags = self.collector.repositories.all_tags(repository).await?;
        let ages: Vec<(&str, Duration)> =
            tags.iter().map(|live| (live.tag.as_str(), self.now.since(live.since))).collect();
        let expired = rules.expired_tags(repository.as_str(), &ages);
        let expired: HashMap<&str, String> =
            expired.into_iter().map(|expired| (expired.what, expired.reason)).collect();
        let mut tagged = HashSet::new();
        for live in &tags {
            let Some(reason) = expired.get(live.tag.as_str()) else {
                tagged.insert(live.digest);
                continue;
            };
            if !self.retire_tag(repository, live).await? {
                tagged.insert(live.digest);
                continue;
            }
            let name = format!("{repository}:{}", live.tag.as_str());
            self.collected.retired.push(Retired { name, reason: reason.clone() });
        }
        let untagged = known.iter().filter(|(digest, _)| !tagged.contains(digest));
        let untagged = untagged.map(|(digest, known)| (*digest, self.now.since(known.newest)));
        let expired = rules.expired_manifests(repository.as_str(), untagged);
        let reasons: HashMap<Digest, String> =
            expired.into_iter().map(|expired| (expired.what, expired.reason)).collect();
        let mut gone: HashSet<Digest> = reasons.keys().copied().collect();
        gone.retain(|digest| self.is_old(known[digest].newest));
        spare_what_others_need(&mut gone, known);
        // In an order, so that a dry run says the same as the cycle that follows it.
        for digest in gone.into_iter().collect::<BTreeSet<_>>() {
            if self.mode == Mode::Collect {
                // Whoever puts it now puts a copy that is not among these.
                let copies = &known[&digest].copies;
                self.collector.repositories.delete_copies(repository, digest, copies).await?;
            }
            // Not before it is gone: its blobs are needed for as long as it is here.
            known.remove(&digest);
            self.collected.deleted_manifests += 1;
            let name = format!("{repository}@{digest}");
            self.collected.retired.push(Retired { name, reason: reasons[&digest].clone() });
        }
        Ok(())
    }

    /// False where there is no space to write down that the tag is gone: what is deleted later makes some,
    /// and the next cycle goes on.
    async fn retire_tag(
        &mut self,
        repository: &RepositoryName,
        live: &LiveTag,
    ) -> Result<bool, RepositoryError> {
        if self.mode == Mode::Collect {
            let unset = self.collector.repositories.unset_tag(repository, live, RETENTION).await;
            if is_full(unset)? {
                self.lacks_space = true;
                return Ok(false);
            }
        }
        self.collected.deleted_tags += 1;
        Ok(true)
    }
}

/// Takes out of `gone` what manifests that stay name, and what is about them.
fn spare_what_others_need(gone: &mut HashSet<Digest>, known: &HashMap<Digest, Known>) {
    let mut about: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (digest, known) in known {
        if let Some(subject) = known.manifest.subject {
            about.entry(subject).or_default().push(*digest);
        }
    }
    let mut stay: Vec<Digest> = known.keys().filter(|digest| !gone.contains(digest)).copied().collect();
    while let Some(digest) = stay.pop() {
        let children = known.get(&digest).map_or(&[][..], |known| &known.manifest.children);
        let referrers = about.get(&digest).map_or(&[][..], Vec::as_slice);
        stay.extend(children.iter().chain(referrers).filter(|needed| gone.remove(needed)));
    }
}
