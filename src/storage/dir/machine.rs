//! The machine that a data directory was used on: a fingerprint beside the identity, so that a copy on another
//! machine is noticed when it starts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use swarmdex_protocols::PeerId;
use swarmdex_protocols::content::ContentId;
use swarmdex_protocols::index::Fingerprint;

use super::{DataDir, DataDirError, read_small, write_small};

/// Name of the file in the data directory.
const FILE: &str = "machine";
/// Hexadecimal digits of a machine id, as systemd's machine-id(5) says.
const ID_DIGITS: usize = 32;
/// Bytes that are read of a file that may hold one.
const MAX_ID_FILE: u64 = 256;

/// How the machine compares with the one that the data directory was used on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// It is the same.
    Same,
    /// It is another.
    Other,
    /// Nothing is known of the machine before, or of this one.
    Unknown,
}

/// The fingerprint of this machine for a node, from a file such as `/etc/machine-id`. `None` where there is none, or
/// none yet (an image that was never started says `uninitialized`): then nothing is compared.
pub(crate) fn fingerprint(machine_id_file: &Path, peer: &PeerId) -> Option<Fingerprint> {
    let mut text = String::new();
    File::open(machine_id_file).ok()?.take(MAX_ID_FILE).read_to_string(&mut text).ok()?;
    let id = text.trim();
    let is_id = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_set = id.bytes().any(|byte| byte != b'0');
    (is_id && is_set).then(|| Fingerprint::of(&id.to_ascii_lowercase(), peer))
}

/// How this machine compares with the one that the node in `folder` last ran on. A file that is torn says nothing.
pub(crate) fn compare(folder: &Path, now: Option<&Fingerprint>) -> Machine {
    let before: Option<ContentId> = read_small(&folder.join(FILE)).ok().and_then(|text| text.trim().parse().ok());
    match (before, now) {
        (Some(before), Some(now)) if before.as_bytes() == now.as_bytes() => Machine::Same,
        (Some(_), Some(_)) => Machine::Other,
        _ => Machine::Unknown,
    }
}

impl DataDir {
    /// Remembers the machine that the node runs on.
    pub(crate) fn set_machine(&self, machine: &Fingerprint) -> Result<(), DataDirError> {
        let text = ContentId::from_bytes(*machine.as_bytes()).to_string();
        write_small(&self.path, FILE, text.as_bytes())
    }

    /// Forgets it: with another identity it says nothing.
    pub(super) fn forget_machine(&self) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef\n";

    #[test]
    fn a_machine_is_known_again_and_another_is_told_apart() {
        let folder = TempDir::new().unwrap();
        let (dir, peer) = (DataDir::open(&folder.path().join("data")).unwrap(), PeerId::random());
        let file = folder.path().join("machine-id");
        std::fs::write(&file, ID).unwrap();
        let here = fingerprint(&file, &peer).unwrap();
        assert_eq!(compare(dir.path(), Some(&here)), Machine::Unknown, "the first start");
        dir.set_machine(&here).unwrap();
        assert_eq!(compare(dir.path(), Some(&here)), Machine::Same);
        std::fs::write(&file, ID.replace('0', "f")).unwrap();
        assert_eq!(compare(dir.path(), fingerprint(&file, &peer).as_ref()), Machine::Other);
        assert_eq!(compare(dir.path(), None), Machine::Unknown);
        std::fs::write(dir.path().join(FILE), "0123").unwrap();
        assert_eq!(compare(dir.path(), Some(&here)), Machine::Unknown, "torn");
        dir.forget_machine().unwrap();
        dir.forget_machine().unwrap();
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn what_is_no_machine_id_is_not_compared() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("machine-id");
        assert_eq!(fingerprint(&file, &PeerId::random()), None, "no file");
        for text in ["", "\n", "uninitialized\n", "0123", &"0".repeat(32), &"g".repeat(32), &"a".repeat(300)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(fingerprint(&file, &PeerId::random()), None, "{text:?}");
        }
    }
}
