//! What all images together came to, for people and for machines.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compare::Holes;
use super::{Case, Kind};

/// The counts of a run, by kind of image.
#[derive(Debug, Default)]
pub struct Summary {
    kinds: BTreeMap<Kind, Tally>,
}

/// The counts of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Images made and compared.
    pub images: u64,
    /// Images made besides that QEMU could not read itself; nothing was held against them.
    pub unreadable: u64,
    /// Things compared: size, whole, each range, holes, and what was written.
    pub comparisons: u64,
    /// Comparisons that failed.
    pub differences: u64,
    /// Bytes of all disks that are zero without being stored.
    pub holes: Holes,
}

impl Summary {
    pub(super) fn add(&mut self, case: &Case) {
        self.kinds.entry(case.kind).or_default().add(&Tally {
            images: 1,
            unreadable: case.unreadable,
            comparisons: case.comparisons,
            differences: case.differences.len() as u64,
            holes: case.holes,
        });
    }

    /// The counts of all kinds together.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.kinds.values().for_each(|tally| total.add(tally));
        total
    }

    /// A Markdown table with a line for each kind, and how many images were left out because QEMU could not read them
    /// itself; the last line of text is `N images, N comparisons, N differences`.
    pub fn to_table(&self) -> String {
        let mut table = "| images of | images | comparisons | differences | MiB absent by qemu-img | MiB zero by the reader |\n".to_owned();
        table += "| --- | --- | --- | --- | --- | --- |\n";
        for (kind, tally) in &self.kinds {
            let Tally { images, comparisons, differences, holes, .. } = tally;
            let [absent, found] = [holes.absent, holes.found].map(|bytes| bytes >> 20);
            table += &format!(
                "| {} | {images} | {comparisons} | {differences} | {absent} | {found} |\n",
                kind.name()
            );
        }
        let Tally { images, unreadable, comparisons, differences, .. } = self.total();
        table +=
            &format!("\n{unreadable} more could not be read by QEMU, which made them, and were left out.\n");
        table + &format!("\n{images} images, {comparisons} comparisons, {differences} differences\n")
    }

    /// The same as JSON: the totals, and `kinds` with an object for each kind.
    pub fn to_json(&self) -> Value {
        let mut json = self.total().to_json();
        let kinds = self.kinds.iter().map(|(kind, tally)| {
            let mut row = tally.to_json();
            row["kind"] = kind.name().into();
            row
        });
        json["kinds"] = kinds.collect();
        json
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.unreadable += other.unreadable;
        self.comparisons += other.comparisons;
        self.differences += other.differences;
        self.holes.absent += other.holes.absent;
        self.holes.found += other.holes.found;
    }

    fn to_json(self) -> Value {
        json!({
            "images": self.images,
            "unreadable": self.unreadable,
            "comparisons": self.comparisons,
            "differences": self.differences,
            "absentBytes": self.holes.absent,
            "foundZeroBytes": self.holes.found,
        })
    }
}
