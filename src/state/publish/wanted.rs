//! Which records and keys follow from what a node says of its names and from what it holds. That is kept change by
//! change: a share of a hundred thousand names is not gone through for one.

use std::collections::{BTreeMap, BTreeSet};

use swarmdex_protocols::{ContentId, Name, Network, RecordKey, Statement};

use super::{What, statement_of};

/// A key, and what is to be published under it from now on.
pub(crate) type RecordChange = (RecordKey, Option<What>);

/// All that a node wants to be published.
#[derive(Debug)]
pub(crate) struct WantedRecords {
    network: Network,
    /// Names of which something is said, with the content that this node is found by, if it is.
    names: BTreeMap<Name, Option<ContentId>>,
    /// Contents that are held for other reasons.
    held: BTreeSet<ContentId>,
    /// Keys under which this node is found, each with the number of reasons.
    keys: BTreeMap<RecordKey, u32>,
}

impl WantedRecords {
    /// Nothing but the keys under which the node is found in any case.
    pub(crate) fn new(network: Network, always: impl IntoIterator<Item = RecordKey>) -> Self {
        let keys = always.into_iter().map(|key| (key, 1)).collect();
        Self { network, names: BTreeMap::new(), held: BTreeSet::new(), keys }
    }

    /// What is said of a name from now on; what changes by that is added to `changes`.
    pub(crate) fn say(&mut self, name: &Name, statement: Option<Statement>, changes: &mut Vec<RecordChange>) {
        let content = statement.as_ref().and_then(content);
        let before = match &statement {
            Some(_) => self.names.insert(name.clone(), content),
            None => self.names.remove(name),
        };
        if statement.is_none() && before.is_none() {
            return;
        }
        changes.push((RecordKey::name(&self.network, name), statement.map(statement_of)));
        let before = before.flatten();
        if before == content {
            return;
        }
        if before.is_some() != content.is_some() {
            for key in RecordKey::of_words(&self.network, name) {
                self.count(key, content.is_some(), changes);
            }
        }
        // What is found by both is not given up meanwhile.
        for (content, wanted) in content.map(|it| (it, true)).into_iter().chain(before.map(|it| (it, false))) {
            self.count(RecordKey::content(&self.network, &content), wanted, changes);
        }
    }

    /// All names of which something is said.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }

    /// All keys under which this node is to be found.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RecordKey> {
        self.keys.keys()
    }

    /// The contents that are held for other reasons, all of them.
    pub(crate) fn hold(&mut self, contents: impl IntoIterator<Item = ContentId>, changes: &mut Vec<RecordChange>) {
        let held: BTreeSet<_> = contents.into_iter().collect();
        let before = std::mem::replace(&mut self.held, held.clone());
        for content in held.symmetric_difference(&before) {
            self.count(RecordKey::content(&self.network, content), held.contains(content), changes);
        }
    }

    /// One reason more, or less, for a key.
    fn count(&mut self, key: RecordKey, more: bool, changes: &mut Vec<RecordChange>) {
        let reasons = self.keys.entry(key).or_default();
        *reasons = if more { reasons.saturating_add(1) } else { reasons.saturating_sub(1) };
        match (*reasons, more) {
            (1, true) => changes.push((key, Some(What::Provide))),
            (0, _) => {
                self.keys.remove(&key);
                changes.push((key, None));
            }
            _ => {}
        }
    }
}

/// The content of which a statement says that its signer has it.
fn content(statement: &Statement) -> Option<ContentId> {
    match statement {
        Statement::Certificate(certificate) => Some(certificate.entry.content),
        Statement::Claim(claim) if !claim.withdrawn => Some(claim.entry.content),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;
    use proptest::prelude::*;
    use swarmdex_protocols::{Claim, Entry, Version};

    use super::*;

    const NAMES: [&str; 5] = ["a/one.txt", "a/two.txt", "b/one", "b/three", "c"];

    fn claim(name: &Name, content: u8, withdrawn: bool, keypair: &Keypair) -> Statement {
        let (content, owner) = (ContentId::of(&[content]), keypair.public().to_peer_id());
        let entry = Entry { name: name.clone(), content, size: 1, owner, version: Version(1), attributes: None };
        Claim::sign(entry, Version(0), withdrawn, &Network::default(), keypair, 1).map(Statement::Claim).unwrap()
    }

    /// What follows from all that is said and held, built at once.
    fn whole(said: &BTreeMap<Name, Statement>, held: &BTreeSet<u8>) -> BTreeMap<RecordKey, What> {
        let network = Network::default();
        let mut whole = BTreeMap::new();
        for (name, statement) in said {
            if let Some(content) = content(statement) {
                whole.extend(RecordKey::of_words(&network, name).into_iter().map(|key| (key, What::Provide)));
                whole.insert(RecordKey::content(&network, &content), What::Provide);
            }
            whole.insert(RecordKey::name(&network, name), statement_of(statement.clone()));
        }
        let content = |number: &u8| (RecordKey::content(&network, &ContentId::of(&[*number])), What::Provide);
        whole.extend(held.iter().map(content));
        whole
    }

    #[derive(Debug, Clone)]
    enum Step {
        Say(usize, u8, bool),
        Silent(usize),
        Hold(BTreeSet<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..NAMES.len(), 0..3u8, any::<bool>()).prop_map(|(name, content, gone)| Step::Say(name, content, gone)),
            (0..NAMES.len()).prop_map(Step::Silent),
            prop::collection::btree_set(0..4u8, 0..3).prop_map(Step::Hold),
        ]
    }

    proptest! {
        #[test]
        fn change_by_change_it_is_what_follows_from_the_whole(steps in prop::collection::vec(step(), 1..40)) {
            let keypair = Keypair::generate_ed25519();
            let mut wanted = WantedRecords::new(Network::default(), []);
            let (mut said, mut held, mut published) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
            for step in steps {
                let mut changes = Vec::new();
                match step {
                    Step::Say(name, content, withdrawn) => {
                        let name = Name::parse(NAMES[name]).unwrap();
                        let statement = claim(&name, content, withdrawn, &keypair);
                        wanted.say(&name, Some(statement.clone()), &mut changes);
                        said.insert(name, statement);
                    }
                    Step::Silent(name) => {
                        let name = Name::parse(NAMES[name]).unwrap();
                        wanted.say(&name, None, &mut changes);
                        said.remove(&name);
                    }
                    Step::Hold(contents) => {
                        wanted.hold(contents.iter().map(|number| ContentId::of(&[*number])), &mut changes);
                        held = contents;
                    }
                }
                for (key, what) in changes {
                    match what {
                        Some(what) => drop(published.insert(key, what)),
                        None => prop_assert!(published.remove(&key).is_some(), "given up without having been wanted"),
                    }
                }
                prop_assert_eq!(&published, &whole(&said, &held));
                prop_assert!(wanted.names().eq(said.keys()));
            }
        }
    }
}
