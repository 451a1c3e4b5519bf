//! One download of a content at a time: the second finds what the first has brought.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::locks::lock;
use swarmdex_protocols::ContentId;
use tokio::sync::OwnedMutexGuard;

/// Who is downloading what. There are as many entries as downloads.
#[derive(Debug, Default)]
pub(in crate::node) struct Turns {
    contents: Mutex<HashMap<ContentId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for downloads of the same content that began before.
    pub(super) async fn take(&self, content: ContentId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut contents = lock(&self.contents);
            contents.retain(|_, turn| turn.strong_count() > 0);
            match contents.get(&content).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    contents.insert(content, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}
