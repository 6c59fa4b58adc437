//! What is on the disks: holes, zeros, noise and text, in stretches of all lengths; and changes to it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::images::SuiteError;
use crate::images::random::Random;
use crate::images::workshop::Workshop;

pub(super) const SECTOR: u64 = 512;
/// How much is stored in a disk at most, or a little more.
const STORED_BYTES: u64 = 4 << 20;

/// A size in whole sectors: of every order from one sector to some hundred MiB, the small ones more often.
pub(super) fn any_size(random: &mut Random) -> u64 {
    let bits = match random.below(8) {
        0 => 0..8,   // to 64 KiB
        1 => 16..20, // 32 to 256 MiB
        _ => 6..15,  // to 8 MiB
    };
    random.of_any_size(bits) * SECTOR
}

/// Writes a raw file of `size` bytes.
pub(super) fn raw_file(
    shop: &mut Workshop,
    name: &str,
    size: u64,
    random: &mut Random,
) -> Result<(), SuiteError> {
    shop.note(format!("{name}: a raw file of {size} bytes: holes, zeros, noise and text"));
    fill(shop, name, size, random).map_err(|error| shop.failed(error))
}

fn fill(shop: &Workshop, name: &str, size: u64, random: &mut Random) -> std::io::Result<()> {
    let file = File::create(shop.path(name))?;
    file.set_len(size)?;
    let longest = (size / SECTOR).max(2).ilog2().clamp(4, 16);
    let (mut at, mut stored) = (0, 0);
    while at < size {
        let mut len = random.of_any_size(9..10 + longest).min(size - at);
        if random.one_in(2) {
            len = len.next_multiple_of(SECTOR).min(size - at); // mostly, programs write sectors
        }
        let content = match random.below(6) {
            _ if stored > STORED_BYTES => None,
            0 | 1 => None,
            2 => Some(vec![0; len as usize]),
            3 => Some(random.noise(len)),
            _ => Some((0..len).map(|at| (at / 11 % 251) as u8).collect()),
        };
        if let Some(content) = content {
            file.write_all_at(&content, at)?;
            stored += len;
        }
        // Large disks are mostly empty.
        at += len + if size > 16 << 20 { random.of_any_size(9..24) } else { 0 };
    }
    Ok(())
}

/// What `qemu-io` may do to an image of a format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes {
    pub(super) size: u64,
    pub(super) most: u64,
    /// Zero writes and discards, which may leave a trace of their own.
    pub(super) zeros: bool,
    /// Length of a cluster that can be written compressed.
    pub(super) compressed: Option<u64>,
    /// How the program ends.
    pub(super) end: End,
}

/// How a program leaves an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    /// Killed in the middle of it.
    Killed,
}

/// Writes, zeroes, discards and compresses here and there. QEMU refuses some of it, such as compressing over
/// an allocated cluster; the rest is carried out.
pub(super) fn change(
    shop: &mut Workshop,
    format: &str,
    file: &str,
    changes: Changes,
    random: &mut Random,
) -> Result<(), SuiteError> {
    let Changes { size, most, .. } = changes;
    let mut commands = Vec::new();
    for _ in 0..random.below(most + 1) {
        let first = random.below(size / SECTOR);
        let sectors = random.of_any_size(0..11).min(size / SECTOR - first);
        let (at, len, pattern) = (first * SECTOR, sectors * SECTOR, 1 + random.below(255));
        commands.push(match (random.below(8), changes.compressed) {
            (0, _) if changes.zeros => format!("write -z {at} {len}"),
            (1, _) if changes.zeros => format!("write -z -u {at} {len}"),
            (2, _) if changes.zeros => format!("discard {at} {len}"),
            (3, Some(cluster)) if at / cluster * cluster + cluster <= size => {
                format!("write -c -P {pattern} {} {cluster}", at / cluster * cluster)
            }
            _ => format!("write -P {pattern} {at} {len}"),
        });
    }
    if commands.is_empty() {
        return Ok(());
    }
    if changes.end == End::Killed {
        commands.push("sigraise 9".to_owned());
    }
    let mut arguments = vec!["-t", "unsafe", "-d", "unmap", "-f", format];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(file);
    shop.attempt("qemu-io", &arguments)?;
    Ok(())
}
