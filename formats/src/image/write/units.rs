//! A disk's content, unit by unit: read and compressed on several threads, stored in order on one.
//!
//! The disk is looked at in windows, each of whole units. A window that the disk promises to be zero is
//! skipped; every other one is read into a buffer by the next thread that is free, its zero units are found there,
//! and the thread that writes takes the windows in their order. There is a fixed number of buffers, so
//! readers that are ahead wait for the writer.
//!
//! ```text
//! free buffers --> thread 1: read, prepare --.
//!      ^      `--> thread 2: read, prepare --+--> in order: store --.
//!      '------------------------------------------------------------'
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec;

use super::{ImageWriteError, Job};
use crate::disk::{Disk, ReadError, Run, RunKind};

/// The least that is read at once. Large enough to make calls cheap, small enough to stay in a core's cache.
const WINDOW_BYTES: u64 = 256 << 10;
/// What all buffers together should hold. There are two buffers at least, however large a unit is.
const BUFFERS_BYTES: u64 = 8 << 20;
/// How far ahead a disk is asked what it has stored.
const LOOK_AHEAD_BYTES: u64 = 1 << 30;

/// What compressing a unit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) enum Packing {
    /// The output holds the compressed unit.
    Packed,
    /// It would not have become smaller. The output is not looked at.
    Stored,
}

impl Packing {
    pub(in crate::image) fn is_packed(self) -> bool {
        self == Packing::Packed
    }
}

impl Job<'_> {
    /// Calls `store` with number and content of each unit of `unit_bytes` that is not all zeros, in order. Behind
    /// the end of the disk, the last unit is filled up with zeros.
    ///
    /// The buffers together have about 8 MiB, but are at least two, each of a unit or more.
    pub(in crate::image) fn each_unit(
        &self,
        unit_bytes: u64,
        mut store: impl FnMut(u64, &[u8]) -> Result<(), ImageWriteError>,
    ) -> Result<(), ImageWriteError> {
        self.each_window(
            unit_bytes,
            || {
                |content: &[u8], data: &mut Vec<usize>| {
                    data.clear();
                    let units = content.chunks_exact(unit_bytes as usize).enumerate();
                    data.extend(units.filter(|(_, unit)| !is_zero(unit)).map(|(number, _)| number));
                }
            },
            |window| {
                let first = window.offset / unit_bytes;
                window.made.iter().try_for_each(|&number| {
                    let at = number * unit_bytes as usize;
                    store(first + number as u64, &window.content[at..at + unit_bytes as usize])
                })
            },
        )
    }

    /// As [`Job::each_unit`] for formats that compress each unit on its own: `store` gets the compressed unit,
    /// or the unit itself where that would not have become smaller.
    ///
    /// `packer` makes what compresses, once for each thread: it appends to its second argument.
    pub(in crate::image) fn each_packed_unit<P>(
        &self,
        unit_bytes: u64,
        packer: impl Fn() -> P + Sync,
        mut store: impl FnMut(u64, Packing, &[u8]) -> Result<(), ImageWriteError>,
    ) -> Result<(), ImageWriteError>
    where
        P: FnMut(&[u8], &mut Vec<u8>) -> Packing,
    {
        self.each_window(
            unit_bytes,
            || {
                let mut pack = packer();
                move |content: &[u8], packed: &mut PackedUnits| packed.fill(content, unit_bytes, &mut pack)
            },
            |window| {
                let first = window.offset / unit_bytes;
                for unit in &window.made.units {
                    let at = unit.number * unit_bytes as usize;
                    let bytes = match unit.packing {
                        Packing::Packed => &window.made.bytes[unit.packed.clone()],
                        Packing::Stored => &window.content[at..at + unit_bytes as usize],
                    };
                    store(first + unit.number as u64, unit.packing, bytes)?;
                }
                Ok(())
            },
        )
    }

    /// Reads the disk in windows of whole units, filled up with zeros behind its end. What `preparer` makes, once for
    /// each thread, looks at each window's content and leaves what it found; `store` takes them in order.
    pub(in crate::image) fn each_window<M, W>(
        &self,
        unit_bytes: u64,
        preparer: impl Fn() -> W + Sync,
        store: impl FnMut(&Window<M>) -> Result<(), ImageWriteError>,
    ) -> Result<(), ImageWriteError>
    where
        M: Default + Send,
        W: FnMut(&[u8], &mut M),
    {
        let window_bytes = WINDOW_BYTES.next_multiple_of(unit_bytes);
        let threads = self.options.threads.get();
        let buffers = (BUFFERS_BYTES / window_bytes).clamp(2, 2 * threads as u64 + 2) as usize;
        let (free, next_free) = mpsc::channel();
        for _ in 0..buffers {
            free.send(Window::default()).expect("its receiver is in this function");
        }
        let readers = Readers {
            disk: self.disk,
            unit_bytes,
            plan: Mutex::new(Plan::of(self.disk, window_bytes)),
            next_free: Mutex::new(next_free),
        };
        let (done, windows) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..threads.min(buffers) {
                let (readers, preparer, done) = (&readers, &preparer, done.clone());
                scope.spawn(move || readers.run(preparer(), done));
            }
            drop(done);
            // Takes `free` along, so that threads which wait for a buffer end, also after an error.
            let stored = self.store_in_order(free, &windows, store);
            lock(&readers.plan).stop();
            stored
        })
    }

    fn store_in_order<M>(
        &self,
        free: Sender<Window<M>>,
        windows: &Receiver<Done<M>>,
        mut store: impl FnMut(&Window<M>) -> Result<(), ImageWriteError>,
    ) -> Result<(), ImageWriteError> {
        let mut early = BTreeMap::new();
        for number in 0.. {
            let window = loop {
                if let Some(window) = early.remove(&number) {
                    break window?;
                }
                match windows.recv() {
                    Ok(Done::Window(number, window)) => early.insert(number, window),
                    // All threads have ended. Where one has panicked, so does their scope.
                    Ok(Done::Panicked) | Err(_) => return Ok(()),
                };
            };
            store(&window)?;
            (self.progress)((window.offset + window.content.len() as u64).min(self.disk.size_bytes()));
            // Where all threads have ended, nobody needs it.
            let _ = free.send(window);
        }
        Ok(())
    }
}

/// A stretch of the disk that has been read, of whole units.
#[derive(Debug, Default)]
pub(in crate::image) struct Window<M> {
    /// Where on the disk it starts.
    pub(in crate::image) offset: u64,
    /// Its content, and zeros behind the end of the disk.
    pub(in crate::image) content: Vec<u8>,
    /// What was made of it on the thread that read it. Used again for another window later.
    pub(in crate::image) made: M,
}

/// What a thread has to say.
enum Done<M> {
    /// A window and its number, or why there is none.
    Window(u64, Result<Window<M>, ReadError>),
    /// Nothing will follow.
    Panicked,
}

/// What the reading threads share.
struct Readers<'a, M> {
    disk: &'a dyn Disk,
    unit_bytes: u64,
    plan: Mutex<Plan<'a>>,
    next_free: Mutex<Receiver<Window<M>>>,
}

impl<M> Readers<'_, M> {
    /// Reads windows until there are no more. The buffer comes first, so that whoever has the window that is
    /// waited for has a buffer for it too.
    fn run(&self, mut prepare: impl FnMut(&[u8], &mut M), done: Sender<Done<M>>) {
        let done = TellPanic(done);
        loop {
            let Ok(mut window) = lock(&self.next_free).recv() else { return };
            let Some((number, planned)) = lock(&self.plan).next() else { return };
            let read = planned.and_then(|range| {
                self.read(range, &mut window)?;
                prepare(&window.content, &mut window.made);
                Ok(window)
            });
            // Where nobody listens, the writing has failed, and the plan ends here too.
            let _ = done.0.send(Done::Window(number, read));
        }
    }

    fn read(&self, range: Range<u64>, window: &mut Window<M>) -> Result<(), ReadError> {
        let len = (range.end - range.start) as usize;
        window.offset = range.start;
        window.content.resize(len.next_multiple_of(self.unit_bytes as usize), 0);
        let (content, behind_the_end) = window.content.split_at_mut(len);
        behind_the_end.fill(0);
        self.disk.read_at(range.start, content)
    }
}

/// Lets the writer know that one of the threads it waits for is gone.
struct TellPanic<M>(Sender<Done<M>>);

impl<M> Drop for TellPanic<M> {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(Done::Panicked);
        }
    }
}

/// Which windows are to be read: those that the disk does not promise to be zero.
#[derive(Debug)]
struct Plan<'a> {
    disk: &'a dyn Disk,
    size_bytes: u64,
    window_bytes: u64,
    /// The number of the next window, among those that are read.
    number: u64,
    /// Everything before it is in a window, or zero. A multiple of `window_bytes`, or inside `data`.
    next: u64,
    /// The last run of data that was found.
    data: Range<u64>,
    /// What follows it, as far as the disk has been asked.
    runs: vec::IntoIter<Run>,
    /// Where the next of `runs` starts.
    run_offset: u64,
}

impl<'a> Plan<'a> {
    fn of(disk: &'a dyn Disk, window_bytes: u64) -> Self {
        let size_bytes = disk.size_bytes();
        let runs = Vec::new().into_iter();
        Plan { disk, size_bytes, window_bytes, number: 0, next: 0, data: 0..0, runs, run_offset: 0 }
    }

    /// The next window's number, and where it lies on the disk; nothing after an error.
    fn next(&mut self) -> Option<(u64, Result<Range<u64>, ReadError>)> {
        while self.next.max(self.data.start) >= self.data.end {
            match self.runs.next() {
                Some(run) => {
                    let start = self.run_offset;
                    self.run_offset += run.len;
                    if run.kind == RunKind::Data {
                        self.data = start..self.run_offset;
                    }
                }
                None if self.run_offset == self.size_bytes => return None,
                None => {
                    let most = LOOK_AHEAD_BYTES.min(self.size_bytes - self.run_offset);
                    match self.disk.runs(self.run_offset, most) {
                        Ok(runs) => self.runs = runs.into_iter(),
                        Err(error) => {
                            self.stop();
                            return Some((self.number, Err(error)));
                        }
                    }
                }
            }
        }
        let data = self.next.max(self.data.start);
        let start = data - data % self.window_bytes;
        let end = (start + self.window_bytes).min(self.size_bytes);
        self.next = end;
        self.number += 1;
        Some((self.number - 1, Ok(start..end)))
    }

    /// There are no more windows.
    fn stop(&mut self) {
        self.runs = Vec::new().into_iter();
        self.run_offset = self.size_bytes;
        self.next = self.size_bytes;
    }
}

/// The units of a window that are not zero, compressed.
#[derive(Debug, Default)]
struct PackedUnits {
    bytes: Vec<u8>,
    units: Vec<PackedUnit>,
}

#[derive(Debug)]
struct PackedUnit {
    /// Its number in the window.
    number: usize,
    packing: Packing,
    /// Where in the compressed bytes it lies.
    packed: Range<usize>,
}

impl PackedUnits {
    fn fill(
        &mut self,
        content: &[u8],
        unit_bytes: u64,
        pack: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Packing,
    ) {
        self.bytes.clear();
        self.units.clear();
        for (number, unit) in content.chunks_exact(unit_bytes as usize).enumerate() {
            if is_zero(unit) {
                continue;
            }
            let start = self.bytes.len();
            let packing = pack(unit, &mut self.bytes);
            if packing == Packing::Stored {
                self.bytes.truncate(start);
            }
            self.units.push(PackedUnit { number, packing, packed: start..self.bytes.len() });
        }
    }
}

/// Whether all bytes are zero.
pub(in crate::image) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let is_zero = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    blocks.iter().all(|block| is_zero(block)) && is_zero(rest)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::image::WriteOptions;

    const KIB: u64 = 1 << 10;

    /// A disk with data, promised or not, whose every stored byte is the number of its KiB.
    #[derive(Debug)]
    struct Striped {
        size_bytes: u64,
        /// In bytes, in order.
        data: Vec<Range<u64>>,
        /// Reading this byte fails.
        bad: u64,
    }

    impl Disk for Striped {
        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            let range = offset..offset + buf.len() as u64;
            if range.contains(&self.bad) {
                return Err(ReadError::OutOfRange { offset: self.bad, len: 0, size_bytes: 0 });
            }
            for (at, byte) in range.zip(buf) {
                let stored = self.data.iter().any(|data| data.contains(&at));
                *byte = if stored { (at / KIB) as u8 } else { 0 };
            }
            Ok(())
        }

        fn runs(&self, offset: u64, len: u64) -> Result<Vec<Run>, ReadError> {
            let next = |data: &Range<u64>| data.end > offset;
            let (to, kind) = match self.data.iter().find(|data| next(data)) {
                Some(data) if data.start <= offset => (data.end, RunKind::Data),
                Some(data) => (data.start, RunKind::Zero),
                None => (self.size_bytes, RunKind::Zero),
            };
            Ok(vec![Run { len: (to - offset).min(len), kind }])
        }
    }

    fn striped(size_kib: u64, data_kib: &[(u64, u64)]) -> Striped {
        let data = data_kib.iter().map(|(start, end)| start * KIB..end * KIB).collect();
        Striped { size_bytes: size_kib * KIB, data, bad: u64::MAX }
    }

    /// What `use_job` makes of `disk` on so many threads, and up to where progress was told.
    fn with_job<T>(disk: &Striped, threads: usize, use_job: impl FnOnce(&Job<'_>) -> T) -> (T, u64) {
        let done = Mutex::new(0);
        let progress = |bytes| {
            let mut done = lock(&done);
            assert!(bytes >= *done);
            *done = bytes;
        };
        let options = WriteOptions { threads: NonZeroUsize::new(threads).unwrap(), identity: [0; 16] };
        let made = use_job(&Job { disk, options: &options, progress: &progress });
        let done = *lock(&done);
        (made, done)
    }

    /// The units of `unit_kib` that are stored, by number, with the first byte of each KiB.
    #[track_caller]
    fn check(disk: &Striped, unit_kib: u64, want: &[(u64, &[u8])]) {
        for threads in [1, 2, 5] {
            let mut found = Vec::new();
            let (result, _) = with_job(disk, threads, |job| {
                job.each_unit(unit_kib * KIB, |number, unit| {
                    let kibs = unit.chunks(KIB as usize).map(|kib| kib[0]);
                    found.push((number, kibs.collect::<Vec<_>>()));
                    Ok(())
                })
            });
            result.unwrap();
            let want: Vec<_> = want.iter().map(|(number, kibs)| (*number, kibs.to_vec())).collect();
            assert_eq!(found, want, "{threads} threads");
        }
    }

    #[test]
    fn units_that_are_not_zero_are_stored_in_order() {
        check(&striped(0, &[]), 4, &[]);
        check(&striped(4096, &[]), 4, &[]);
        check(&striped(8, &[(0, 8)]), 4, &[(0, &[0, 1, 2, 3]), (1, &[4, 5, 6, 7])]);
        check(&striped(3000, &[(1, 2), (2001, 2003)]), 4, &[(0, &[0, 1, 0, 0]), (500, &[0, 209, 210, 0])]);
        // KiB 256 is stored and yet zero.
        check(&striped(300, &[(256, 258)]), 1, &[(257, &[1])]);
    }

    #[test]
    fn the_last_unit_is_filled_up_with_zeros() {
        check(&striped(6, &[(0, 6)]), 4, &[(0, &[0, 1, 2, 3]), (1, &[4, 5, 0, 0])]);
        check(&striped(1, &[(0, 1)]), 2048, &[]);
        let mut want = vec![0; 512];
        want[..2].copy_from_slice(&[0, 1]);
        check(&striped(2, &[(0, 2)]), 512, &[(0, &want)]);
    }

    #[test]
    fn packed_units_come_in_order_and_unpacked_where_that_is_smaller() {
        for threads in [1, 3] {
            let mut found = Vec::new();
            let pack = |unit: &[u8], packed: &mut Vec<u8>| {
                packed.extend([unit[0], unit[1]]);
                if unit[0].is_multiple_of(2) { Packing::Stored } else { Packing::Packed }
            };
            let (result, done) = with_job(&striped(1000, &[(2, 4), (901, 902)]), threads, |job| {
                job.each_packed_unit(
                    KIB,
                    || pack,
                    |number, packing, bytes| {
                        found.push((number, packing, bytes.len()));
                        Ok(())
                    },
                )
            });
            result.unwrap();
            let want = [(2, Packing::Stored, 1024), (3, Packing::Packed, 2), (901, Packing::Packed, 2)];
            assert_eq!(found, want);
            assert_eq!(done, 1000 * KIB);
        }
    }

    #[test]
    fn what_cannot_be_read_ends_the_writing_at_that_place() {
        let mut disk = striped(20_000, &[(1, 20_000)]);
        disk.bad = 10_000 * KIB;
        for threads in [1, 2, 8] {
            let (result, done) = with_job(&disk, threads, |job| job.each_unit(KIB, |_, _| Ok(())));
            assert!(matches!(result, Err(ImageWriteError::Read(ReadError::OutOfRange { .. }))), "{result:?}");
            assert_eq!(done, 39 * WINDOW_BYTES);
        }
    }

    #[test]
    fn what_cannot_be_stored_ends_the_reading() {
        let full = || ImageWriteError::NotFresh { found: "full".to_owned() };
        let disk = striped(100_000, &[(1, 100_000)]);
        let (result, done) = with_job(&disk, 3, |job| job.each_unit(KIB, |_, _| Err(full())));
        assert!(matches!(result, Err(ImageWriteError::NotFresh { .. })), "{result:?}");
        assert_eq!(done, 0);
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_on_a_thread_is_not_waited_for() {
        let packer = || |_: &[u8], _: &mut Vec<u8>| -> Packing { panic!("on purpose") };
        let _ = with_job(&striped(9000, &[(0, 9000)]), 2, |job| {
            job.each_packed_unit(KIB, packer, |_, _, _| Ok(()))
        });
    }
}
