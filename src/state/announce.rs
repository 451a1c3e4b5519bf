//! What a peer has to tell its master: the difference between its share and what the master said.

use std::collections::BTreeMap;

use swarmdex_protocols::index::{Offer, Revocation, Verdict};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use swarmdex_protocols::{ContentId, Name, PeerId, Version};

/// What the master says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Granted at this version; 0 if it was granted to an earlier run of this node.
    Certified(Version),
    /// Held by another peer.
    Conflict(PeerId),
    /// Refused for another reason.
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    content: ContentId,
    size: u64,
    standing: Standing,
}

/// One change to send. At most one is under way at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// Claim these names; `last` ends the first report after a join with a changed share.
    Announce {
        /// What is offered.
        offers: Vec<Offer>,
        /// Whether the master may drop every name of the peer that was not announced since the join.
        last: bool,
    },
    /// Give these names up.
    Revoke(Vec<String>),
}

/// Keeps track of what the master was told and what it answered.
#[derive(Debug, Default)]
pub struct Announcer {
    told: BTreeMap<Name, Told>,
    /// Whether the master still waits for the end of the first report.
    reporting: bool,
}

impl Announcer {
    /// A join: with an unchanged share the master knows `share` already, otherwise it is told everything.
    pub fn on_joined<'a>(&mut self, unchanged: bool, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) {
        self.reporting = !unchanged;
        let before = std::mem::take(&mut self.told);
        if !unchanged {
            return;
        }
        for (name, content, size) in share {
            let version = match before.get(name) {
                Some(Told { standing: Standing::Certified(version), content: known, .. }) if known == content => {
                    *version
                }
                _ => Version::default(),
            };
            let told = Told { content: *content, size, standing: Standing::Certified(version) };
            self.told.insert(name.clone(), told);
        }
    }

    /// The next change to send for a share, sorted by name; `None` if the master knows it all.
    pub fn next_batch<'a>(
        &self,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)> + Clone,
    ) -> Option<Batch> {
        let mut offers = Vec::new();
        let mut complete = true;
        for (name, content, size) in share.clone() {
            let known = self.told.get(name).is_some_and(|told| told.content == *content && told.size == size);
            if known {
                continue;
            }
            if offers.len() == MAX_BATCH_ENTRIES {
                complete = false;
                break;
            }
            offers.push(Offer { name: name.as_str().to_owned(), content: *content, size });
        }
        if self.reporting || !offers.is_empty() {
            return Some(Batch::Announce { offers, last: self.reporting && complete });
        }
        let names = self.surplus(share);
        (!names.is_empty()).then_some(Batch::Revoke(names))
    }

    /// Names that the master was told of and that are no longer shared: both lists are sorted.
    fn surplus<'a>(&self, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) -> Vec<String> {
        let mut share = share.into_iter().map(|(name, ..)| name).peekable();
        let mut names = Vec::new();
        for (name, told) in &self.told {
            while share.next_if(|other| *other < name).is_some() {}
            if share.peek() != Some(&name) && matches!(told.standing, Standing::Certified(_)) {
                names.push(name.as_str().to_owned());
            }
            if names.len() == MAX_BATCH_ENTRIES {
                break;
            }
        }
        names
    }

    /// The answer to an announce. False if it has not one verdict for each offer.
    pub fn on_announced(&mut self, offers: &[Offer], last: bool, verdicts: Vec<Verdict>) -> bool {
        if offers.len() != verdicts.len() {
            return false;
        }
        for (offer, verdict) in offers.iter().zip(verdicts) {
            let Ok(name) = Name::parse(&offer.name) else { continue };
            let standing = match verdict {
                Verdict::Accepted { version, .. } => Standing::Certified(version),
                Verdict::Conflict { owner } => Standing::Conflict(owner),
                Verdict::Refused(refusal) => Standing::Refused(refusal.reason),
            };
            self.told.insert(name, Told { content: offer.content, size: offer.size, standing });
        }
        if last {
            self.reporting = false;
        }
        true
    }

    /// The answer to a revoke. False if it has not one outcome for each name.
    pub fn on_revoked(&mut self, names: &[String], outcomes: &[Revocation]) -> bool {
        if names.len() != outcomes.len() {
            return false;
        }
        for name in names {
            if let Ok(name) = Name::parse(name) {
                self.told.remove(&name);
            }
        }
        true
    }

    /// Asks again for names that were not granted: whoever held them may have given them up.
    pub fn retry_lost(&mut self) {
        self.told.retain(|_, told| matches!(told.standing, Standing::Certified(_)));
    }

    /// Asks again for one name that was not granted.
    pub fn retry(&mut self, name: &Name) {
        if self.told.get(name).is_some_and(|told| !matches!(told.standing, Standing::Certified(_))) {
            self.told.remove(name);
        }
    }

    /// Whether the master granted `name` and was not told since that it is given up.
    pub fn holds(&self, name: &Name) -> bool {
        self.told.get(name).is_some_and(|told| matches!(told.standing, Standing::Certified(_)))
    }

    /// What the master said of `name` with this content.
    pub fn standing(&self, name: &Name, content: &ContentId) -> Option<&Standing> {
        self.told.get(name).filter(|told| told.content == *content).map(|told| &told.standing)
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::statement::Seal;

    use super::*;

    type Share = BTreeMap<Name, (ContentId, u64)>;

    fn share(names: &[&str]) -> Share {
        names.iter().map(|name| (Name::parse(name).unwrap(), (ContentId::of(name.as_bytes()), 1))).collect()
    }

    fn view(share: &Share) -> impl Iterator<Item = (&Name, &ContentId, u64)> + Clone {
        share.iter().map(|(name, (content, size))| (name, content, *size))
    }

    fn accepted(version: u64) -> Verdict {
        let seal = Seal { issued_ms: 0, expires_ms: 0, signature: Vec::new() };
        Verdict::Accepted { version: Version(version), seal }
    }

    fn announce(announcer: &mut Announcer, share: &Share, verdict: &Verdict) -> (usize, bool) {
        let Some(Batch::Announce { offers, last }) = announcer.next_batch(view(share)) else {
            panic!("nothing to announce")
        };
        let verdicts = vec![verdict.clone(); offers.len()];
        assert!(announcer.on_announced(&offers, last, verdicts));
        (offers.len(), last)
    }

    #[test]
    fn a_changed_share_is_told_in_full_and_ends_with_the_last_batch() {
        let names: Vec<_> = (0..2500).map(|number| format!("file {number}")).collect();
        let share = share(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut announcer = Announcer::default();
        announcer.on_joined(false, view(&share));
        assert_eq!(announce(&mut announcer, &share, &accepted(1)), (1000, false));
        assert_eq!(announce(&mut announcer, &share, &accepted(1)), (1000, false));
        assert_eq!(announce(&mut announcer, &share, &accepted(1)), (500, true));
        assert_eq!(announcer.next_batch(view(&share)), None);
    }

    #[test]
    fn an_empty_share_that_changed_is_told_as_well() {
        let mut announcer = Announcer::default();
        announcer.on_joined(false, []);
        assert_eq!(announcer.next_batch([]), Some(Batch::Announce { offers: Vec::new(), last: true }));
    }

    #[test]
    fn an_unchanged_share_is_not_told_again() {
        let share = share(&["a", "b"]);
        let mut announcer = Announcer::default();
        announcer.on_joined(true, view(&share));
        assert_eq!(announcer.next_batch(view(&share)), None);
    }

    #[test]
    fn what_is_no_longer_shared_is_revoked_once() {
        let mut announcer = Announcer::default();
        let before = share(&["a", "b", "c"]);
        announcer.on_joined(true, view(&before));
        let after = share(&["b"]);
        let Some(Batch::Revoke(names)) = announcer.next_batch(view(&after)) else { panic!() };
        assert_eq!(names, ["a", "c"]);
        assert!(announcer.on_revoked(&names, &[Revocation::NotHeld, Revocation::NotHeld]));
        assert_eq!(announcer.next_batch(view(&after)), None);
    }

    #[test]
    fn a_lost_name_is_not_asked_for_again_until_told_to() {
        let share = share(&["a"]);
        let owner = PeerId::random();
        let mut announcer = Announcer::default();
        announcer.on_joined(true, []);
        announce(&mut announcer, &share, &Verdict::Conflict { owner });
        assert_eq!(announcer.next_batch(view(&share)), None);
        let (name, (content, _)) = share.first_key_value().unwrap();
        assert_eq!(announcer.standing(name, content), Some(&Standing::Conflict(owner)));
        announcer.retry(name);
        assert_eq!(announce(&mut announcer, &share, &accepted(3)), (1, false));
        assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(3))));
    }

    #[test]
    fn answers_of_the_wrong_length_are_not_believed() {
        let share = share(&["a", "b"]);
        let mut announcer = Announcer::default();
        announcer.on_joined(false, []);
        let Some(Batch::Announce { offers, last }) = announcer.next_batch(view(&share)) else { panic!() };
        assert!(!announcer.on_announced(&offers, last, vec![accepted(1)]));
        assert!(!announcer.on_revoked(&["a".to_owned()], &[]));
        assert!(announcer.next_batch(view(&share)).is_some());
    }
}
