//! What a node can be asked, in this process or in another: [`Node`] and the client of the control interface answer alike.
//!
//! Answers are boxed, so that who asks need not know which of the two it has; each stands for much more than a box.

use std::path::PathBuf;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};

use super::operation::Operation;
use super::roots::{RootInfo, UnsharedInfo};
use super::types::{
    EntryInfo, GetOptions, GetReport, GetRequest, LookupInfo, PeerInfo, RevokedInfo, SearchInfo, ShareReport,
    SharedInfo, Status,
};
use super::{Error, Node};
use crate::config::ShareOptions;

/// An answer on its way. Nothing is asked before it is polled.
///
/// # Errors
/// Those of the method of [`Node`]. The client of another process's node gives each as [`Error::Remote`], with its kind and its
/// sentence. So it does if that process is gone or answers otherwise. [`Error::NotText`] is of a path that is no UTF-8.
///
/// # Cancel safety
/// That of the method of [`Node`]. Dropping one of the client closes its connection, and the other process drops its answer.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A list, or as much of it as was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was asked for.
    pub entries: Vec<T>,
    /// Whether there are more, or may be.
    pub more: bool,
}

impl<T> Listed<T> {
    /// The first `limit` of all that there are.
    pub(crate) fn cut(mut entries: Vec<T>, limit: usize) -> Self {
        let more = entries.len() > limit;
        entries.truncate(limit);
        Self { entries, more }
    }
}

/// Everything that a node can be asked. Paths are absolute. Errors and cancel safety are said at [`Reply`] and at each method of
/// [`Node`].
pub trait Api: Send + Sync {
    /// See [`Node::status`].
    fn status(&self) -> Reply<'_, Status>;

    /// At most `limit` of the members of the network, see [`Node::peers`].
    fn some_peers(&self, limit: usize) -> Reply<'_, Listed<PeerInfo>>;

    /// At most `limit` of the names that the node shares, see [`Node::shared`].
    fn some_shared(&self, limit: usize) -> Reply<'_, Listed<SharedInfo>>;

    /// See [`Node::roots`].
    fn roots(&self) -> Reply<'_, Vec<RootInfo>>;

    /// See [`Node::lookup`].
    fn lookup<'a>(&'a self, name: &'a str) -> Reply<'a, LookupInfo>;

    /// See [`Node::matching`]. The client of another process's node gives at most 100,000 entries.
    fn matching<'a>(&'a self, query: &'a str, limit: usize) -> Reply<'a, SearchInfo>;

    /// See [`Node::revoke`].
    fn revoke(&self, names: Vec<String>) -> Reply<'_, Vec<RevokedInfo>>;

    /// See [`Node::unshare`].
    fn unshare(&self, paths: Vec<PathBuf>) -> Reply<'_, Vec<UnsharedInfo>>;

    /// See [`Node::share_with`].
    fn share_with(&self, paths: Vec<PathBuf>, name: Option<String>, options: ShareOptions) -> Operation<ShareReport>;

    /// See [`Node::get_with`].
    fn get_with(&self, request: GetRequest, options: GetOptions) -> Operation<GetReport>;

    /// See [`Node::peers`].
    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        self.some_peers(usize::MAX).map_ok(|listed| listed.entries).boxed()
    }

    /// See [`Node::shared`].
    fn shared(&self) -> Reply<'_, Vec<SharedInfo>> {
        self.some_shared(usize::MAX).map_ok(|listed| listed.entries).boxed()
    }

    /// See [`Node::search`].
    fn search<'a>(&'a self, query: &'a str, limit: usize) -> Reply<'a, Vec<EntryInfo>> {
        self.matching(query, limit).map_ok(|found| found.entries).boxed()
    }

    /// See [`Node::share`].
    fn share(&self, paths: Vec<PathBuf>, name: Option<String>) -> Operation<ShareReport> {
        self.share_with(paths, name, ShareOptions::default())
    }

    /// See [`Node::get`].
    fn get(&self, request: GetRequest) -> Operation<GetReport> {
        self.get_with(request, GetOptions::default())
    }
}

// What a node can do by itself has the same name there, and is what is called here.
impl Api for Node {
    fn status(&self) -> Reply<'_, Status> {
        self.status().boxed()
    }

    fn some_peers(&self, limit: usize) -> Reply<'_, Listed<PeerInfo>> {
        self.peers().map_ok(move |all| Listed::cut(all, limit)).boxed()
    }

    fn some_shared(&self, limit: usize) -> Reply<'_, Listed<SharedInfo>> {
        self.shared().map_ok(move |all| Listed::cut(all, limit)).boxed()
    }

    fn roots(&self) -> Reply<'_, Vec<RootInfo>> {
        self.roots().boxed()
    }

    fn lookup<'a>(&'a self, name: &'a str) -> Reply<'a, LookupInfo> {
        self.lookup(name).boxed()
    }

    fn matching<'a>(&'a self, query: &'a str, limit: usize) -> Reply<'a, SearchInfo> {
        self.matching(query, limit).boxed()
    }

    fn revoke(&self, names: Vec<String>) -> Reply<'_, Vec<RevokedInfo>> {
        self.revoke(names).boxed()
    }

    fn unshare(&self, paths: Vec<PathBuf>) -> Reply<'_, Vec<UnsharedInfo>> {
        self.unshare(paths).boxed()
    }

    fn share_with(&self, paths: Vec<PathBuf>, name: Option<String>, options: ShareOptions) -> Operation<ShareReport> {
        self.share_with(paths, name, options)
    }

    fn get_with(&self, request: GetRequest, options: GetOptions) -> Operation<GetReport> {
        self.get_with(request, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_cut_says_that_there_is_more() {
        for (length, limit, expected) in [(0, 0, (0, false)), (3, 0, (0, true)), (3, 2, (2, true)), (3, 3, (3, false))]
        {
            let Listed { entries, more } = Listed::cut(vec![(); length], limit);
            assert_eq!((entries.len(), more), expected, "{length} {limit}");
        }
    }
}
