//! What there is in place of a name that nobody has: asked of the index in a few short questions.

use std::time::Duration;

use futures::future::join_all;
use swarmdex_protocols::limits::MAX_PAGE_ENTRIES;
use swarmdex_protocols::words::index_words;
use swarmdex_protocols::{Name, Pattern};

use super::glob_below;
use crate::node::error::shorten;
use crate::node::{Error, Node};
use crate::state::nearest::{Hint, nearest};

/// How long a hint may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Letters of a word by which names like it are found.
const FIRST_LETTERS: usize = 3;
/// Ends a name that was too long to be told.
const CUT: char = '…';

impl Node {
    /// An error with what there is instead, if it is about a name that nobody has.
    pub(in crate::node) async fn explain(&self, error: Error) -> Error {
        let (text, recursive) = match &error {
            Error::NotFound { name } => (name, false),
            Error::NothingBelow { prefix } => (prefix, true),
            _ => return error,
        };
        let Some(hint) = self.hint(text.trim_end_matches('/'), recursive).await.map(sentence) else { return error };
        match error {
            Error::NotFound { name } => Error::NotNamed { name, hint },
            Error::NothingBelow { prefix } => Error::NotBelow { prefix, hint },
            error => error,
        }
    }

    /// Explains an error about a text that ends in a slash, which is no name.
    pub(super) async fn explain_folder(&self, folder: &str, error: Error) -> Error {
        match self.hint(folder, false).await {
            Some(hint @ Hint::Folder { .. }) => {
                Error::NotNamed { name: shorten(&format!("{folder}/")), hint: sentence(hint) }
            }
            _ => error,
        }
    }

    async fn hint(&self, text: &str, recursive: bool) -> Option<Hint> {
        if text.ends_with(CUT) {
            return None;
        }
        let questions = &self.inner.questions;
        let queries = queries(text);
        let asking = join_all(queries.iter().map(|query| questions.few(query, MAX_PAGE_ENTRIES)));
        let answers = tokio::time::timeout(PATIENCE, asking).await.ok()?;
        let entries: Vec<_> = answers.into_iter().filter_map(Result::ok).flatten().collect();
        nearest(text, entries.iter().map(|entry| &entry.name), recursive)
    }
}

/// What is looked through: what is below, what is in the same folder, what begins like the longest word, and whatever there is,
/// for networks of few names.
fn queries(text: &str) -> Vec<String> {
    let mut queries = Vec::new();
    let folder = text.rsplit_once('/').map(|(folder, _)| folder);
    for prefix in [Some(text), folder].into_iter().flatten() {
        queries.extend(Name::parse(prefix).ok().map(|prefix| glob_below(&prefix)));
    }
    let last = text.rsplit('/').next().unwrap_or(text);
    let longest = index_words(last).into_iter().max_by_key(|word| word.chars().count());
    queries.extend(longest.map(|word| word.chars().take(FIRST_LETTERS).collect::<String>()));
    queries.push(String::new());
    queries.retain(|query| Pattern::parse(query).is_ok());
    queries
}

/// As the rest of a sentence.
fn sentence(hint: Hint) -> String {
    let quoted = |names: &[String]| {
        let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        match quoted.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    };
    match hint {
        Hint::Folder { folder, names } => {
            let count = match names {
                1 => "1 file".to_owned(),
                MAX_PAGE_ENTRIES.. => format!("{MAX_PAGE_ENTRIES} files and more"),
                _ => format!("{names} files"),
            };
            format!("{folder:?} is a folder with {count}: get --recursive {folder:?} fetches them")
        }
        Hint::Names(names) => format!("is it {}?", quoted(&names)),
        Hint::Folders(folders) => format!("is it --recursive {}?", quoted(&folders)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_are_queries_and_few() {
        let long = format!("{}/{}", "ü".repeat(120), "x y".repeat(80));
        for text in ["docs", "docs/Report 2024.txt", "a*b", "...", "", "日本/語", &long] {
            let queries = queries(text);
            assert!((1..=4).contains(&queries.len()), "{text}: {queries:?}");
        }
    }

    #[test]
    fn hints_are_sentences() {
        let names = |names: &[&str]| Hint::Names(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(sentence(names(&["a"])), "is it \"a\"?");
        assert_eq!(sentence(names(&["a", "b", "c"])), "is it \"a\", \"b\" or \"c\"?");
        let folder = Hint::Folder { folder: "docs".to_owned(), names: 1 };
        assert_eq!(sentence(folder), "\"docs\" is a folder with 1 file: get --recursive \"docs\" fetches them");
    }
}
