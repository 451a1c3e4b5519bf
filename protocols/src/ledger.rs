//! What is known of one name: the latest statement that the master stands behind, and a claim beside it.
//!
//! Merging is the same wherever it is done: at a node that stores, at a reader, at a master that rebuilds its index. It
//! does not depend on the order in which statements arrive. Claims of different owners are the exception: a ledger
//! keeps the first, and most ledgers of the nodes closest to the name decide ([`Tally`]).

use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_RECORD_BYTES;
use crate::name::Name;
use crate::statement::{Authority, CLOCK_TOLERANCE_MS};
use crate::statement::{Certificate, Claim, Invalid, Rank, Statement, Version};
use crate::{codec, codec::DecodeError, codec::EncodeError};

/// The statements about one name, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// A certificate, a tombstone or a revocation.
    settled: Option<Statement>,
    claim: Option<Claim>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<'a> {
    /// For what the master signed.
    Certified(&'a Certificate),
    /// For what its claimant says.
    Claimed(&'a Claim),
    /// For nothing.
    Free,
}

/// Why a ledger does not take a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A later statement is known.
    #[error("a later statement about the name is known")]
    Older,
    /// The name is certified to another.
    #[error("the name belongs to {0}")]
    Certified(PeerId),
    /// Another claimed the name before.
    #[error("the name is claimed by {0}")]
    Claimed(PeerId),
    /// It is over already.
    #[error("the statement has expired")]
    Expired,
}

/// The statements of a record, as they travel.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(rename = "s")]
    statements: Vec<Statement>,
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// The bytes are no record.
    #[error(transparent)]
    Bytes(#[from] DecodeError),
    /// It is about another name.
    #[error("the record is about another name")]
    Name,
    /// A statement in it is invalid.
    #[error(transparent)]
    Statement(#[from] Invalid),
}

/// Whether something that expires then is over by now, for somebody whose clock may be off.
fn is_over(expires_ms: u64, unix_ms: u64) -> bool {
    expires_ms.saturating_add(CLOCK_TOLERANCE_MS) < unix_ms
}

impl Ledger {
    /// Takes in a statement that was verified, at `unix_ms` milliseconds since 1970. Taking the same one again is no error.
    ///
    /// # Errors
    /// - [`Rejection::Expired`]: it is over already.
    /// - [`Rejection::Older`]: a later statement about the name is here.
    /// - [`Rejection::Certified`], [`Rejection::Claimed`]: it is a claim, and the name is another's, or claimed by another.
    pub fn insert(&mut self, statement: Statement, unix_ms: u64) -> Result<(), Rejection> {
        self.expire(unix_ms);
        if is_over(statement.expires_ms(), unix_ms) {
            return Err(Rejection::Expired);
        }
        match statement {
            Statement::Claim(claim) => self.insert_claim(claim),
            settled => self.settle(settled),
        }
    }

    fn settle(&mut self, mut statement: Statement) -> Result<(), Rejection> {
        let rank = statement.rank();
        if let Some(held) = &mut self.settled {
            if held.rank() > rank {
                return Err(Rejection::Older);
            }
            // The same statement once more: the one that is valid for longer stays.
            if held.rank() == rank && held.expires_ms() >= statement.expires_ms() {
                held.complete_with(statement);
                return Ok(());
            }
            if held.rank() == rank {
                statement.complete_with(held.clone());
            }
        }
        self.settled = Some(statement);
        if self.claim.as_ref().is_some_and(|claim| self.refuses(claim).is_some()) {
            self.claim = None;
        }
        Ok(())
    }

    /// Why what is settled leaves no room for a claim.
    fn refuses(&self, claim: &Claim) -> Option<Rejection> {
        let settled = self.settled.as_ref()?;
        if let Statement::Certificate(certificate) = settled {
            let (granted, claimed) = (&certificate.entry, &claim.entry);
            if granted.owner != claimed.owner {
                return Some(Rejection::Certified(granted.owner));
            }
            // What is certified needs no claim, whatever its version.
            if !claim.withdrawn && granted.content == claimed.content && granted.size == claimed.size {
                return Some(Rejection::Older);
            }
        }
        (settled.version() > claim.base).then_some(Rejection::Older)
    }

    fn insert_claim(&mut self, mut claim: Claim) -> Result<(), Rejection> {
        if let Some(rejection) = self.refuses(&claim) {
            return Err(rejection);
        }
        if let Some(held) = &mut self.claim {
            let same = held.entry.owner == claim.entry.owner;
            if !same && !held.withdrawn {
                return Err(Rejection::Claimed(held.entry.owner));
            }
            if same && held.entry.version > claim.entry.version {
                return Err(Rejection::Older);
            }
            if same && held.entry.version == claim.entry.version {
                if held.seal.expires_ms >= claim.seal.expires_ms {
                    held.entry.complete_with(&claim.entry);
                    return Ok(());
                }
                claim.entry.complete_with(&held.entry);
            }
        }
        self.claim = Some(claim);
        Ok(())
    }

    /// Forgets what is over at `unix_ms` milliseconds since 1970.
    pub fn expire(&mut self, unix_ms: u64) {
        if self.settled.as_ref().is_some_and(|statement| is_over(statement.expires_ms(), unix_ms)) {
            self.settled = None;
        }
        if self.claim.as_ref().is_some_and(|claim| is_over(claim.seal.expires_ms, unix_ms)) {
            self.claim = None;
        }
    }

    /// Forgets the statement that the master stands behind: nobody has said it for too long.
    pub fn forget_settled(&mut self) {
        self.settled = None;
    }

    /// Forgets the claim.
    pub fn forget_claim(&mut self) {
        self.claim = None;
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.settled.is_none() && self.claim.is_none()
    }

    /// The statement that the master stands behind.
    pub fn settled(&self) -> Option<&Statement> {
        self.settled.as_ref()
    }

    /// The claim.
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// Every statement that is held.
    pub fn statements(&self) -> impl Iterator<Item = Statement> + '_ {
        self.settled.iter().cloned().chain(self.claim.iter().cloned().map(Statement::Claim))
    }

    /// What the name stands for. A claim beside a certificate is of the same owner and later: the file changed
    /// while no master could be told.
    pub fn standing(&self) -> Standing<'_> {
        match (&self.settled, &self.claim) {
            (_, Some(claim)) if !claim.withdrawn => Standing::Claimed(claim),
            (Some(Statement::Certificate(certificate)), _) => Standing::Certified(certificate),
            _ => Standing::Free,
        }
    }

    /// The highest version that was heard of.
    pub fn version(&self) -> Version {
        let settled = self.settled.as_ref().map(Statement::version).unwrap_or_default();
        settled.max(self.claim.as_ref().map(|claim| claim.entry.version).unwrap_or_default())
    }

    /// As the value of a record: at most [`MAX_RECORD_BYTES`] bytes.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if it takes more; statements that were checked never do.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        codec::encode(&Record { statements: self.statements().collect() }, MAX_RECORD_BYTES)
    }

    /// Reads and checks the value of a record about `name`. Statements that are over are left out; one that is
    /// false spoils the record. The time is in milliseconds since 1970.
    ///
    /// # Errors
    /// - [`InvalidRecord::Bytes`]: the bytes are no record, or more than [`MAX_RECORD_BYTES`].
    /// - [`InvalidRecord::Name`]: a statement is about another name.
    /// - [`InvalidRecord::Statement`]: one is invalid otherwise than by having expired.
    pub fn decode(bytes: &[u8], name: &Name, authority: &Authority, unix_ms: u64) -> Result<Self, InvalidRecord> {
        let statements = decode_record(bytes)?;
        let mut ledger = Self::default();
        for mut statement in statements {
            if statement.name() != name {
                return Err(InvalidRecord::Name);
            }
            match statement.check(authority, unix_ms) {
                Ok(()) => {
                    // What the record itself contradicts is left out.
                    let _ = ledger.insert(statement, unix_ms);
                }
                Err(Invalid::Expired) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ledger)
    }
}

/// The statements in the value of a record, not yet checked.
///
/// # Errors
/// [`DecodeError`] if the bytes are no record, or more than [`MAX_RECORD_BYTES`].
pub fn decode_record(bytes: &[u8]) -> Result<Vec<Statement>, DecodeError> {
    codec::decode::<Record>(bytes, MAX_RECORD_BYTES).map(|record| record.statements)
}

/// The ledgers of several nodes about one name, put together.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    merged: Ledger,
    /// The claims that live beside what is settled, with the number of nodes that hold each.
    claims: BTreeMap<PeerId, (Claim, usize)>,
    /// Whom certificates name as owner.
    owners: BTreeSet<PeerId>,
    answers: usize,
}

/// Owners that are kept in mind of one name: two are too many already.
const MAX_OWNERS: usize = 8;

impl Tally {
    /// Counts the ledger of one node, which was checked, at `unix_ms` milliseconds since 1970. An empty one counts as an answer.
    pub fn add(&mut self, ledger: &Ledger, unix_ms: u64) {
        self.answers += 1;
        if let Some(Statement::Certificate(certificate)) = &ledger.settled
            && self.owners.len() < MAX_OWNERS
        {
            self.owners.insert(certificate.entry.owner);
        }
        if let Some(settled) = &ledger.settled {
            let _ = self.merged.insert(settled.clone(), unix_ms);
        }
        if let Some(claim) = &ledger.claim {
            let (held, votes) = self.claims.entry(claim.entry.owner).or_insert_with(|| (claim.clone(), 0));
            *votes += 1;
            if claim.entry.version > held.entry.version {
                *held = claim.clone();
            }
        }
    }

    /// Counts everything that another tally counted.
    pub fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        let room = MAX_OWNERS - self.owners.len().min(MAX_OWNERS);
        self.owners.extend(other.owners.iter().take(room));
        if let Some(settled) = &other.merged.settled {
            // What is later stays.
            let _ = self.merged.settle(settled.clone());
        }
        for (owner, (claim, votes)) in &other.claims {
            let (held, count) = self.claims.entry(*owner).or_insert_with(|| (claim.clone(), 0));
            *count += votes;
            if claim.entry.version > held.entry.version {
                *held = claim.clone();
            }
        }
    }

    /// How many nodes answered.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// The latest statement that the master stands behind.
    pub fn settled(&self) -> Option<&Statement> {
        self.merged.settled()
    }

    /// Version of the latest statement that the master stands behind; 0 if there is none.
    pub fn base(&self) -> Version {
        self.settled().map(Statement::version).unwrap_or_default()
    }

    /// Rank of the latest statement that the master stands behind; `None` if there is none.
    pub fn rank(&self) -> Option<Rank> {
        self.settled().and_then(Statement::rank)
    }

    /// The claim that most nodes hold and nothing forbids; of those with equally many, the one of the lowest peer id.
    pub fn claim(&self) -> Option<&Claim> {
        let allowed =
            self.claims.values().filter(|(claim, _)| !claim.withdrawn && self.merged.refuses(claim).is_none());
        let mut best: Option<&(Claim, usize)> = None;
        for candidate in allowed {
            if best.is_none_or(|(_, votes)| candidate.1 > *votes) {
                best = Some(candidate);
            }
        }
        best.map(|(claim, _)| claim)
    }

    /// Owners that certificates name beside the one whose name it is: nodes that missed something, or two masters with one key.
    pub fn rivals(&self) -> impl Iterator<Item = PeerId> + '_ {
        let owner = match self.standing() {
            Standing::Certified(certificate) => Some(certificate.entry.owner),
            Standing::Claimed(claim) => Some(claim.entry.owner),
            Standing::Free => None,
        };
        self.owners.iter().copied().filter(move |other| owner.is_some_and(|owner| owner != *other))
    }

    /// What the name stands for.
    pub fn standing(&self) -> Standing<'_> {
        match (self.claim(), self.settled()) {
            (Some(claim), _) => Standing::Claimed(claim),
            (None, Some(Statement::Certificate(certificate))) => Standing::Certified(certificate),
            _ => Standing::Free,
        }
    }

    /// The highest version that was heard of.
    pub fn version(&self) -> Version {
        let claims = self.claims.values().map(|(claim, _)| claim.entry.version).max().unwrap_or_default();
        self.merged.version().max(claims)
    }
}
