//! Which chunks of a partial file were verified: appended after each was written, read when a download goes on.
//!
//! Nothing in it is believed: a record has the chunk's proof, by which the chunk on disk is verified again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::{ChainingValue, Proof};

/// Begins every journal; the content id and the size of the file (8 bytes, big-endian) follow.
const MAGIC: &[u8; 16] = b"swarmdex part 1\n";
/// Values in one proof: one for each level of the tree above the chunks of the largest file.
const MAX_SIBLINGS: usize = 32;
/// Longest journal that is read, in bytes: that of the largest file, each chunk twice.
const MAX_BYTES: u64 = 32 << 30;

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    header: Vec<u8>,
    empty: AtomicBool,
}

/// A chunk with its proof.
type Record = (u64, Proof);

impl Journal {
    /// Opens the journal of a partial file, and reads it if it is about this content. What is torn at its end is cut
    /// off, so that what is added is found behind what was read.
    pub(super) fn open(path: &Path, content: &ContentId, size: u64) -> io::Result<(Self, Vec<Record>)> {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(flags)
            .open(path)?;
        let header = [&MAGIC[..], content.as_bytes(), &size.to_be_bytes()].concat();
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        let (records, torn) = bytes.strip_prefix(&header[..]).map(parse).unwrap_or_default();
        if torn > 0 {
            file.set_len((bytes.len() - torn) as u64)?;
        }
        let journal = Self { file, path: path.to_owned(), header, empty: AtomicBool::new(records.is_empty()) };
        Ok((journal, records))
    }

    /// Begins anew.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&self.header)?;
        self.empty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Adds chunks in one write.
    pub(super) fn append<'a>(&self, chunks: impl IntoIterator<Item = (u64, &'a Proof)>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (index, proof) in chunks {
            let siblings = proof.siblings();
            bytes.extend_from_slice(&index.to_be_bytes());
            // At most 24 of them, see `MAX_SIBLINGS`.
            bytes.push(siblings.len() as u8);
            bytes.extend_from_slice(siblings.as_flattened());
        }
        let mut file = &self.file;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&bytes)?;
        self.empty.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether no chunk is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Relaxed)
    }

    /// Takes it off the disk.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the journal of a download could not be removed");
        }
    }
}

/// Whole records, and how many bytes at the end are none.
fn parse(mut bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    while let Some((index, rest)) = bytes.split_first_chunk::<8>()
        && let Some((&count, rest)) = rest.split_first()
        && let Some((siblings, rest)) = rest.split_at_checked(usize::from(count) * 32)
        && usize::from(count) <= MAX_SIBLINGS
    {
        let siblings: Vec<ChainingValue> = siblings.as_chunks::<32>().0.to_vec();
        records.push((u64::from_be_bytes(*index), Proof::new(siblings)));
        bytes = rest;
    }
    (records, bytes.len())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const HEADER: usize = MAGIC.len() + 32 + 8;

    #[test]
    fn a_journal_cut_anywhere_gives_the_records_before_the_cut() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("journal");
        let content = ContentId::of(b"x");
        let (journal, records) = Journal::open(&path, &content, 5).unwrap();
        assert!(records.is_empty() && journal.is_empty());
        journal.clear().unwrap();
        let proofs = [Proof::new(vec![[1; 32]; 3]), Proof::default(), Proof::new(vec![[2; 32]])];
        journal.append(proofs.iter().enumerate().map(|(index, proof)| (index as u64 * 7, proof))).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), HEADER + 3 * 9 + 4 * 32);
        for end in 0..=bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            let (journal, records) = Journal::open(&path, &content, 5).unwrap();
            let ends = [HEADER + 9 + 96, HEADER + 18 + 96, HEADER + 27 + 128];
            assert_eq!(records.len(), ends.iter().filter(|whole| **whole <= end).count(), "cut at {end}");
            assert!(
                records
                    .iter()
                    .zip(&proofs)
                    .enumerate()
                    .all(|(at, (record, proof))| *record == (at as u64 * 7, proof.clone()))
            );
            // What is added later stands behind them.
            if end >= HEADER {
                journal.append([(5, &proofs[2])]).unwrap();
                let (_, more) = Journal::open(&path, &content, 5).unwrap();
                assert_eq!(more.len(), records.len() + 1, "cut at {end}");
                assert_eq!(more.last(), Some(&(5, proofs[2].clone())));
            }
        }
        // Of another content or size it says nothing.
        assert!(Journal::open(&path, &ContentId::of(b"y"), 5).unwrap().1.is_empty());
        assert!(Journal::open(&path, &content, 6).unwrap().1.is_empty());
    }
}
