//! Into a file: where it goes, what is there of it already, and what becomes of it in the end.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use swarmdex_protocols::content::{Geometry, Proof, check_chunk};
use swarmdex_protocols::{ContentId, Name, PeerId};
use tokio::sync::watch;

use super::consumers::{Ending, Fetch, FetchEnd};
use super::engine::{Engine, Said, Terms};
use super::sharing::Sharing;
use crate::node::answer::Checked;
use crate::node::operation::{Control, ControlRequest};
use crate::node::patience::{self, Patience};
use crate::node::{Error, Inner};
use crate::storage::content::{Content, Verified, read_verified};
use crate::storage::hash::FileStamp;
use crate::storage::holdings::{Part, Whole};
use crate::storage::partial::{PartialFile, Placing};

/// A file in place.
pub(in crate::node) struct Got {
    pub(in crate::node) path: PathBuf,
    pub(in crate::node) bytes: u64,
    pub(in crate::node) sources: Vec<PeerId>,
    /// As it was left.
    pub(in crate::node) stamp: Option<FileStamp>,
}

/// Where a file goes, and how.
pub(in crate::node) struct Target {
    pub(in crate::node) path: PathBuf,
    pub(in crate::node) placing: Placing,
    /// Whether it is soon taken away: it is not passed on then.
    pub(in crate::node) fleeting: bool,
    /// Whether it has to be on disk.
    pub(in crate::node) sync: bool,
}

/// Downloads `found` to `target`; nothing is left at the target unless every chunk was verified.
pub(in crate::node) async fn download(
    inner: &Inner,
    found: Checked,
    target: Target,
    patience: &Patience,
    control: &Control,
) -> Result<Got, Error> {
    let Target { path, placing, fleeting, sync } = target;
    let name = found.entry.name.clone();
    let geometry = Geometry::new(found.entry.size).map_err(|_| Error::Answer)?;
    let (size, content) = (found.entry.size, found.entry.content);
    let fetches = &inner.downloads.fetches;
    // Whoever wants the same content waits, and then finds it here.
    let turn = fetches.turns.take(content).await;
    let holdings = inner.library.holdings.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let (file, tree) = PartialFile::resume(&path, content, geometry, placing)?;
        Ok::<_, Error>(Arc::new(Part::new(file, tree, turn, &holdings)))
    });
    // Threads that still write when this is dropped have it too: the turn is theirs until they end.
    let part = opened.await.map_err(|_| Error::Bug)??;
    let fetch = Fetch::into_file(content, part.clone());
    let before = fetches.take_over(&fetch);
    let mut ending = Ending::new(fetches, fetch.clone(), FetchEnd::Moved);
    if let Some(cache) = before.and_then(|before| before.store()) {
        take_from(cache, content, part.clone()).await?;
    }
    let have = part.have();
    if !have.is_empty() {
        let bytes: u64 = have.iter().map(|index| geometry.len(index)).sum();
        tracing::info!(%name, bytes, "goes on with what was downloaded before");
        control.progress.send_modify(|progress| progress.done_bytes += bytes);
    }
    let sharing = Sharing::begin(inner, content, geometry, &part, fleeting);
    let owner = found.entry.owner;
    let says = |said: Said| match said {
        Said::Written(bytes) => control.progress.send_modify(|progress| progress.done_bytes += bytes),
        Said::Away(true) => patience::say(control, Some(patience.sentence(&patience::away(&owner)))),
        Said::Away(false) => patience::say(control, None),
    };
    let shares = inner.config.fetch.reshare && !inner.config.transient;
    let terms = Terms { sync, shares, patience: patience.limit(), waits: patience.is_wanted() };
    let sources = if geometry.is_empty() {
        check_empty(&part, name, content)?
    } else {
        let engine = Engine::new(inner, fetch.clone(), part.clone(), &found, terms, &says);
        let engine = Box::pin(engine.run(found, &have));
        tokio::select! {
            biased;
            never = obey(control.requested.clone(), &part, &fetch) => match never {},
            end = engine => end?,
        }
    };
    let whole = part.clone();
    let finish = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let path = whole.file.finish(sync)?;
        let stamp = whole.file.metadata().ok().map(|metadata| FileStamp::of(&metadata));
        Ok((path, stamp, whole.tree().outboard()))
    });
    let (path, stamp, outboard) = finish.await.map_err(|_| Error::Bug)??;
    if let (Some(stamp), Some(outboard)) = (stamp, outboard) {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let whole = Whole { path: absolute, stamp, outboard: Arc::new(outboard) };
        ending.end = FetchEnd::Placed(whole.clone());
        sharing.complete(whole);
    }
    Ok(Got { path, bytes: size, sources, stamp })
}

/// Does what the user wants, for ever.
async fn obey(mut requested: watch::Receiver<ControlRequest>, part: &Part, fetch: &Fetch) -> Infallible {
    loop {
        let wanted = *requested.borrow_and_update();
        match wanted {
            ControlRequest::Run => fetch.set_whole(true),
            ControlRequest::Pause => fetch.set_whole(false),
            ControlRequest::Cancel => {
                part.file.discard();
                fetch.stop();
            }
        }
        if requested.changed().await.is_err() {
            // An operation that nobody holds any more is dropped as a whole.
            return std::future::pending().await;
        }
    }
}

/// Takes the chunks over that readers of the content have come by.
async fn take_from(cache: Arc<dyn Content>, content: ContentId, part: Arc<Part>) -> Result<(), Error> {
    let taking = tokio::task::spawn_blocking(move || -> Result<(), Error> {
        let (geometry, mut bytes) = (part.geometry(), Vec::new());
        for index in cache.have().iter().filter(|index| !part.contains(*index)).collect::<Vec<_>>() {
            bytes.resize(usize::try_from(geometry.len(index)).unwrap_or(0), 0);
            let right = read_verified(&*cache, &content, index, &mut bytes).unwrap_or(false);
            // It may have made room for another meanwhile.
            let Some(proof) = cache.proof(index).filter(|_| right) else { continue };
            if let Ok(path) = check_chunk(&content, &geometry, index, &bytes, &proof) {
                part.write(Verified { index, bytes: &bytes, path: &path, proof: &proof })?;
                part.record(&[(index, &proof)])?;
            }
        }
        Ok(())
    });
    taking.await.map_err(|_| Error::Bug)?
}

/// An empty file has no bytes to ask for; its content id is that of nothing, or it is none.
fn check_empty(part: &Part, name: Name, content: ContentId) -> Result<Vec<PeerId>, Error> {
    match check_chunk(&content, &part.geometry(), 0, &[], &Proof::default()) {
        Ok(path) => {
            part.tree().insert(0, &path, &Proof::default());
            Ok(Vec::new())
        }
        Err(_) => Err(Error::Verification { name, content, sources: "the index".to_owned(), kept: false }),
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::content::{Outboard, chunk_value};
    use tempfile::TempDir;

    use super::*;
    use crate::node::fetch::turns::Turns;
    use crate::storage::cache::Cache;
    use crate::storage::holdings::Holdings;

    #[tokio::test]
    async fn a_download_begins_with_what_readers_have_come_by() {
        const CHUNK: usize = 256 << 10;
        let folder = TempDir::new().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK + 5).map(|number| (number / 1000) as u8).collect();
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let values = bytes.chunks(CHUNK).enumerate().map(|(index, piece)| chunk_value(&geometry, index as u64, piece));
        let (outboard, content) = Outboard::build(geometry, values.collect()).unwrap();
        let cache = Arc::new(Cache::new(folder.path(), geometry, |_| false).unwrap());
        for index in [1, 3] {
            let begin = index as usize * CHUNK;
            let (piece, proof) = (&bytes[begin..bytes.len().min(begin + CHUNK)], outboard.proof(index).unwrap());
            let path = check_chunk(&content, &geometry, index, piece, &proof).unwrap();
            cache.write(Verified { index, bytes: piece, path: &path, proof: &proof }).unwrap();
        }
        let target = folder.path().join("file");
        let resume = || PartialFile::resume(&target, content, geometry, Placing::default()).unwrap();
        let turns = Turns::default();
        let (file, tree) = resume();
        let part = Arc::new(Part::new(file, tree, turns.take(content).await, &Holdings::default()));
        take_from(cache, content, part.clone()).await.unwrap();
        assert_eq!(part.have().iter().collect::<Vec<_>>(), [1, 3]);
        drop(part);
        // As if they had come from the network: another attempt finds them, verifies them, and has its turn.
        let (file, tree) = resume();
        let part = Part::new(file, tree, turns.take(content).await, &Holdings::default());
        assert_eq!(part.have().iter().collect::<Vec<_>>(), [1, 3]);
        let mut last = [0; 5];
        part.read(3, &mut last).unwrap();
        assert_eq!(last, bytes[3 * CHUNK..]);
        assert!(part.read(0, &mut last).is_err());
    }
}
