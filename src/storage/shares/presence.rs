//! Whether what is shared is there: roots may be removed and made again, and disks unplugged and mounted again, which no
//! watcher tells.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statfs, statx};

use crate::storage::mounts;

/// File systems of which the system does not tell what other machines, or programs behind them, change: their numbers in
/// `statfs(2)`.
const REMOTE: [u32; 14] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x7375_7245, // Coda
    0x7461_636f, // OCFS2
    0x0116_1970, // GFS2
    0x0bd0_0bd0, // Lustre
    0x786f_4256, // VirtualBox
    0x1980_0202, // GPFS
];

/// Tells a file or folder from another that takes its place. A number of an inode is used again at once by some file
/// systems; with the time at which it was made it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

/// What is at a path; `None` if nothing is, or it cannot be told.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(Identity { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
}

/// Whether something is mounted at a path.
pub(super) fn is_mount(path: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    if let Ok(found) = statx(CWD, path, flags, StatxFlags::BASIC_STATS)
        && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    }
    // Other systems: what is mounted has another device than the folder that it is in.
    let device = |path: &Path| fs::symlink_metadata(path).ok().map(|metadata| metadata.dev());
    match (device(path), path.parent()) {
        (Some(own), Some(above)) => device(above) != Some(own),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// The mount that a path is on: the path itself, or the nearest one above it.
pub(super) fn mount_of(path: &Path) -> Option<PathBuf> {
    path.ancestors().find(|above| is_mount(above)).map(Path::to_owned)
}

/// Whether changes at a path may come from where this system does not hear of them.
pub(crate) fn is_remote(path: &Path) -> bool {
    // The number has 32 bits whatever its type.
    statfs(path).is_ok_and(|found| REMOTE.contains(&(found.f_type as u32)))
}

/// What is mounted where; tells what changed. Where the system has no such list, nothing ever does.
#[derive(Debug)]
pub(crate) struct Mounts {
    table: Option<File>,
    mounts: BTreeSet<(String, PathBuf)>,
}

impl Default for Mounts {
    /// What is mounted now.
    fn default() -> Self {
        let mut found = Self { table: File::open(mounts::TABLE).ok(), mounts: BTreeSet::new() };
        found.mounts = found.read().unwrap_or_default();
        found
    }
}

impl Mounts {
    /// Where something was mounted or unmounted since the last time; `None` if nothing was at all. What was mounted and
    /// unmounted in between is not in it.
    pub(crate) fn changed(&mut self) -> Option<BTreeSet<PathBuf>> {
        let table = self.table.as_ref()?;
        // Costs nothing as long as nothing happened: the system marks the file then.
        let mut waiting = [PollFd::new(table, PollFlags::PRI | PollFlags::ERR)];
        if poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready == 0) {
            return None;
        }
        let now = self.read()?;
        let changed = now.symmetric_difference(&self.mounts).map(|(_, path)| path.clone()).collect();
        self.mounts = now;
        Some(changed)
    }

    fn read(&mut self) -> Option<BTreeSet<(String, PathBuf)>> {
        let mounts = mounts::read(self.table.as_mut()?).ok()?;
        Some(mounts.into_iter().map(|mount| (mount.number, mount.place)).collect())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_folder_that_is_made_again_is_another() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("root");
        assert_eq!(identity(&path), None);
        fs::create_dir(&path).unwrap();
        let first = identity(&path);
        assert!(first.is_some());
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(identity(&path), first, "what is in it changes nothing");
        fs::rename(&path, folder.path().join("away")).unwrap();
        fs::create_dir(&path).unwrap();
        assert_ne!(identity(&path), first);
    }

    #[test]
    fn what_is_mounted_is_known_and_does_not_change_by_itself() {
        assert!(is_mount(Path::new("/")));
        assert!(!is_mount(TempDir::new().unwrap().path()));
        assert!(Mounts::default().changed().unwrap_or_default().is_empty());
    }
}
