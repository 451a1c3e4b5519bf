//! What of a shared folder is left out: what its user said, `.swarmdexignore` files, the built-in lists, hidden files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::{ShareError, defaults};
use crate::config::Selection;
use crate::storage::partial::is_partial;

/// A file of patterns, in the syntax of `.gitignore`, for the folder that it is in and all below.
pub(super) const IGNORE_FILE: &str = ".swarmdexignore";
/// Longest such file, in bytes.
const MAX_IGNORE_FILE: u64 = 1 << 20;
/// Patterns that may be given with one root, or with the node.
pub(super) const MAX_PATTERNS: usize = 1000;
/// Longest pattern, in bytes.
pub(super) const MAX_PATTERN: usize = 4096;

/// Why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It may hold secrets.
    Secret,
    /// It is of use to nobody else.
    Junk,
    /// Its name begins with a dot.
    Hidden,
    /// A `.swarmdexignore` says so.
    Ignored,
    /// An `--exclude` says so.
    Excluded,
    /// It was revoked.
    Revoked,
    /// It is the data directory of a node.
    Node,
    /// It cannot be shared: a link, a pipe, a name that is none.
    Unfit,
}

/// How much is left out, by why. A folder counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// What may hold secrets.
    pub secrets: u64,
    /// Unfinished downloads, and files of editors, systems and repositories.
    pub junk: u64,
    /// What is hidden.
    pub hidden: u64,
    /// What a `.swarmdexignore` names.
    pub ignored: u64,
    /// What an `--exclude` names.
    pub excluded: u64,
    /// What was revoked.
    pub revoked: u64,
    /// Data directories of nodes.
    pub nodes: u64,
    /// What cannot be shared: links, pipes, names that are none.
    pub unfit: u64,
}

impl LeftOut {
    /// Counts one thing more.
    pub fn count(&mut self, why: Why) {
        let count = match why {
            Why::Secret => &mut self.secrets,
            Why::Junk => &mut self.junk,
            Why::Hidden => &mut self.hidden,
            Why::Ignored => &mut self.ignored,
            Why::Excluded => &mut self.excluded,
            Why::Revoked => &mut self.revoked,
            Why::Node => &mut self.nodes,
            Why::Unfit => &mut self.unfit,
        };
        *count += 1;
    }

    /// Adds another count to this one.
    pub fn add(&mut self, other: Self) {
        self.secrets += other.secrets;
        self.junk += other.junk;
        self.hidden += other.hidden;
        self.ignored += other.ignored;
        self.excluded += other.excluded;
        self.revoked += other.revoked;
        self.nodes += other.nodes;
        self.unfit += other.unfit;
    }

    /// How much is left out, for whatever reason.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(count, _)| count).sum()
    }

    /// Each count with some words for it, as in "3 hidden".
    pub fn parts(&self) -> [(u64, &'static str); 8] {
        [
            (self.secrets, "that may hold secrets"),
            (self.junk, "of junk"),
            (self.hidden, "hidden"),
            (self.ignored, "by .swarmdexignore"),
            (self.excluded, "by --exclude"),
            (self.revoked, "revoked"),
            (self.nodes, "data directories of nodes"),
            (self.unfit, "that cannot be shared"),
        ]
    }
}

/// Checks patterns that a user gave.
pub(crate) fn check_patterns(patterns: &[String]) -> Result<(), ShareError> {
    let wrong = |pattern: &str, reason: String| ShareError::Pattern { pattern: pattern.to_owned(), reason };
    if let Some(pattern) = patterns.get(MAX_PATTERNS) {
        return Err(wrong(pattern, format!("more than {MAX_PATTERNS} patterns; put them into a .swarmdexignore")));
    }
    for pattern in patterns {
        if pattern.trim().is_empty() || pattern.len() > MAX_PATTERN || pattern.contains(['\n', '\0']) {
            return Err(wrong(pattern, format!("it is empty, longer than {MAX_PATTERN} bytes, or no line")));
        }
    }
    compile(Path::new(""), patterns).map(drop)
}

fn compile(root: &Path, patterns: &[String]) -> Result<Gitignore, ShareError> {
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        let wrong = |error: ignore::Error| ShareError::Pattern { pattern: pattern.clone(), reason: error.to_string() };
        // A comment is of no use here, and `#name#` is the backup of an editor.
        let line = if pattern.starts_with('#') { format!("\\{pattern}") } else { pattern.clone() };
        builder.add_line(None, &line).map_err(wrong)?;
    }
    let pattern = patterns.first().cloned().unwrap_or_default();
    builder.build().map_err(|error| ShareError::Pattern { pattern, reason: error.to_string() })
}

/// The rules on the way down a root.
pub(super) struct Rules {
    hidden: bool,
    no_ignore: bool,
    /// Whether secrets and junk are left out by their names.
    lists: bool,
    exclude: Gitignore,
    /// The folders on the way that have an ignore file, each below the one before.
    folders: Vec<(PathBuf, Gitignore)>,
}

impl Rules {
    pub(super) fn new(root: &Path, selection: &Selection) -> Result<Self, ShareError> {
        let Selection { exclude, hidden, no_ignore } = selection;
        let exclude = compile(root, exclude)?;
        // A user who shares `.ssh` by itself means what is in it.
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        let lists = !no_ignore && defaults::judge(&name, true, 0).is_none();
        Ok(Self { hidden: *hidden, no_ignore: *no_ignore, lists, exclude, folders: Vec::new() })
    }

    /// Goes on to what is in a folder, below the one before or beside it. An error says why nothing in it is shared: what
    /// is to be left out cannot be told. Lines that are no patterns are returned.
    pub(super) fn enter(&mut self, folder: &Path) -> Result<Option<String>, String> {
        while self.folders.last().is_some_and(|(above, _)| !folder.starts_with(above)) {
            self.folders.pop();
        }
        if self.no_ignore {
            return Ok(None);
        }
        let Some(text) = read_ignore_file(&folder.join(IGNORE_FILE))? else { return Ok(None) };
        let mut builder = GitignoreBuilder::new(folder);
        let mut wrong = None;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if let Err(error) = builder.add_line(None, line) {
                wrong = Some(format!("line {}: {error}", number + 1));
            }
        }
        let rules = builder.build().map_err(|error| format!("its {IGNORE_FILE} cannot be used: {error}"))?;
        self.folders.push((folder.to_owned(), rules));
        Ok(wrong)
    }

    /// Why a file or folder in the folder that was entered last is left out. The nearest rule counts: `--exclude`, then
    /// the ignore file of its folder, of the one above, and so on, then the lists.
    pub(super) fn judge(&self, path: &Path, is_folder: bool, length: u64) -> Option<Why> {
        let name = path.file_name().unwrap_or_default();
        if !is_folder && is_partial(name) {
            return Some(Why::Junk);
        }
        match self.exclude.matched(path, is_folder) {
            Match::Ignore(_) => return Some(Why::Excluded),
            Match::Whitelist(_) => return None,
            Match::None => {}
        }
        for (_, rules) in self.folders.iter().rev() {
            match rules.matched(path, is_folder) {
                Match::Ignore(_) => return Some(Why::Ignored),
                Match::Whitelist(_) => return None,
                Match::None => {}
            }
        }
        let name = name.to_string_lossy();
        let listed = if self.lists { defaults::judge(&name, is_folder, length) } else { None };
        listed.or_else(|| (!self.hidden && name.starts_with('.')).then_some(Why::Hidden))
    }
}

/// The text of an ignore file; `None` if there is none.
fn read_ignore_file(path: &Path) -> Result<Option<String>, String> {
    let failed = |error: std::io::Error| format!("its {IGNORE_FILE} cannot be read: {error}");
    // A pipe in its place holds nobody up.
    let open = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!("its {IGNORE_FILE} is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_IGNORE_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_IGNORE_FILE {
        return Err(format!("its {IGNORE_FILE} is longer than {MAX_IGNORE_FILE} bytes"));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn selection(exclude: &[&str], hidden: bool, no_ignore: bool) -> Selection {
        Selection { exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(), hidden, no_ignore }
    }

    #[test]
    fn what_is_said_nearest_counts() {
        let folder = TempDir::new().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        std::fs::write(root.join(IGNORE_FILE), "# a comment\n*.raw\n/only-here\nlogs/\n!.wanted\n!server.pem\n")
            .unwrap();
        std::fs::write(root.join("sub").join(IGNORE_FILE), "!keep.raw\n").unwrap();
        let judged = |selection: &Selection, path: &str, is_folder: bool| {
            let mut rules = Rules::new(root, selection).unwrap();
            let path = root.join(path);
            let above: Vec<_> = path.ancestors().skip(1).take_while(|above| above.starts_with(root)).collect();
            for above in above.into_iter().rev() {
                assert_eq!(rules.enter(above), Ok(None));
            }
            rules.judge(&path, is_folder, 10)
        };
        let usual = selection(&[], false, false);
        for (path, is_folder, why) in [
            ("a.txt", false, None),
            ("a.raw", false, Some(Why::Ignored)),
            ("sub/deep/a.raw", false, Some(Why::Ignored)),
            ("sub/deep/keep.raw", false, None),
            ("keep.raw", false, Some(Why::Ignored)),
            ("only-here", false, Some(Why::Ignored)),
            ("sub/only-here", false, None),
            ("sub/logs", true, Some(Why::Ignored)),
            ("sub/logs", false, None),
            (".wanted", false, None),
            (".other", false, Some(Why::Hidden)),
            ("server.pem", false, None),
            ("other.pem", false, Some(Why::Secret)),
            (".env", false, Some(Why::Secret)),
            ("sub/.x.swarmdex-part", false, Some(Why::Junk)),
        ] {
            assert_eq!(judged(&usual, path, is_folder), why, "{path}");
        }
        // As in ripgrep: each flag lifts one thing.
        let (hidden, no_ignore, both) =
            (selection(&[], true, false), selection(&[], false, true), selection(&[], true, true));
        for (path, expected) in [
            (".other", [None, Some(Why::Hidden), None]),
            (".env", [Some(Why::Secret), Some(Why::Hidden), None]),
            ("other.pem", [Some(Why::Secret), None, None]),
            ("a.raw", [Some(Why::Ignored), None, None]),
            (".x.swarmdex-part", [Some(Why::Junk); 3]),
        ] {
            assert_eq!([&hidden, &no_ignore, &both].map(|said| judged(said, path, false)), expected, "{path}");
        }
        let excluding = selection(&["*.txt", "#a#", "/sub/deep", "!b.txt"], true, true);
        for (path, is_folder, why) in [
            ("a.txt", false, Some(Why::Excluded)),
            ("b.txt", false, None),
            ("sub/deep/a.txt", false, Some(Why::Excluded)),
            ("sub/deep", true, Some(Why::Excluded)),
            ("#a#", false, Some(Why::Excluded)),
        ] {
            assert_eq!(judged(&excluding, path, is_folder), why, "{path}");
        }
    }

    #[test]
    fn a_file_of_patterns_that_cannot_be_read_shares_nothing_of_its_folder() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join(IGNORE_FILE);
        let enter = || Rules::new(folder.path(), &Selection::default()).unwrap().enter(folder.path());
        std::fs::write(&file, "a\n").unwrap();
        assert_eq!(enter(), Ok(None));
        std::fs::write(&file, "a{b\nc\n").unwrap();
        assert!(enter().unwrap().unwrap().contains("line 1"));
        std::fs::write(&file, vec![b'a'; MAX_IGNORE_FILE as usize + 1]).unwrap();
        assert!(enter().is_err());
        std::fs::remove_file(&file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(enter().is_err());
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(enter().is_err());
    }

    #[test]
    fn patterns_are_checked_and_their_number_is_bounded() {
        let pattern = |text: &str| [text.to_owned()];
        for good in ["*.log", "build/", "#a#", "a b", "!x", "[ab]c"] {
            assert!(check_patterns(&pattern(good)).is_ok(), "{good}");
        }
        for bad in ["", "  ", "a\nb", "{a,b", &"a".repeat(MAX_PATTERN + 1)] {
            assert!(matches!(check_patterns(&pattern(bad)), Err(ShareError::Pattern { .. })), "{bad:.20}");
        }
        let many = vec!["a".to_owned(); MAX_PATTERNS];
        assert!(check_patterns(&many).is_ok());
        assert!(check_patterns(&[many, vec!["b".to_owned()]].concat()).is_err());
    }
}
