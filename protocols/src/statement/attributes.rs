//! What a file has beside its bytes, said and signed by the owner of its name.
//!
//! The master's seal does not cover it: builds that do not know of attributes could not check such a seal. So attributes are
//! a statement of the owner, bound to what the name stands for, that travels inside the entry. Whoever does not know
//! them, ignores them; what is false in them costs them alone, and not the entry.

use libp2p_identity::{Keypair, SigningError};
use serde::{Deserialize, Serialize};

use super::seal::Body;
use super::{Entry, key_of};
use crate::content::ContentId;
use crate::name::Network;

const DOMAIN: &[u8] = b"swarmdex attributes 1\0";
/// The earliest time that is passed on, in nanoseconds since 1970 (1901): what file systems with 32 bits of seconds begin at.
pub const MIN_MODIFIED_NS: i64 = -(1 << 31) * 1_000_000_000;
/// The latest time that is passed on, in nanoseconds since 1970 (2242).
pub const MAX_MODIFIED_NS: i64 = (1 << 33) * 1_000_000_000;

/// What a file has beside its bytes. Bits that give rights (set-uid, set-gid, sticky) and who may read or write are none
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Whether its owner may execute it.
    pub executable: bool,
    /// When it was last modified, in nanoseconds since 1970; `None` if that is before 1901 or after 2242.
    pub modified_ns: Option<i64>,
}

impl Attributes {
    /// With a time that is passed on only if it is possible.
    pub fn new(executable: bool, modified_ns: i64) -> Self {
        Self { executable, modified_ns: Some(modified_ns).filter(is_possible) }
    }
}

fn is_possible(modified_ns: &i64) -> bool {
    (MIN_MODIFIED_NS..=MAX_MODIFIED_NS).contains(modified_ns)
}

/// Attributes with the signature of the name's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedAttributes {
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    executable: bool,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    modified_ns: Option<i64>,
    #[serde(rename = "g", with = "serde_bytes")]
    signature: [u8; 64],
}

/// What a signature of attributes is bound to besides them.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The name.
    pub name: &'a str,
    /// Content id of the file.
    pub content: &'a ContentId,
    /// Size of the file in bytes.
    pub size: u64,
    /// The network.
    pub network: &'a Network,
}

impl SignedAttributes {
    /// Signs what the owner of a name says of its file.
    ///
    /// # Errors
    /// [`SigningError`] of a key that cannot sign; an Ed25519 key always can.
    pub fn sign(attributes: Attributes, subject: Subject<'_>, owner: &Keypair) -> Result<Self, SigningError> {
        let Attributes { executable, modified_ns } = attributes;
        let bytes = body(attributes, subject, &owner.public().to_peer_id().to_bytes()).without_dates();
        let signature = owner.sign(&bytes)?;
        // Keys of another kind make signatures of another length; they sign nothing here.
        let signature = signature.try_into().unwrap_or([0; 64]);
        Ok(Self { executable, modified_ns, signature })
    }

    /// What is said, without its signature having been looked at.
    pub fn said(&self) -> Attributes {
        Attributes { executable: self.executable, modified_ns: self.modified_ns.filter(is_possible) }
    }
}

impl Entry {
    /// What the owner says of the file, if it says so itself, of just this content.
    pub fn attributes(&self, network: &Network) -> Option<Attributes> {
        let signed = self.attributes.as_deref()?;
        // As it was signed: a time that cannot be makes none of the rest false.
        let said = Attributes { executable: signed.executable, modified_ns: signed.modified_ns };
        let subject = Subject { name: self.name.as_str(), content: &self.content, size: self.size, network };
        let bytes = body(said, subject, &self.owner.to_bytes()).without_dates();
        key_of(&self.owner)?.verify(&bytes, &signed.signature).then(|| signed.said())
    }

    /// Takes out attributes that are not the owner's.
    pub(super) fn drop_false_attributes(&mut self, network: &Network) {
        if self.attributes.is_some() && self.attributes(network).is_none() {
            self.attributes = None;
        }
    }

    /// Takes over the attributes of another statement that says the same: on its way through builds that do not know of
    /// attributes one may have lost them.
    pub(crate) fn complete_with(&mut self, other: &Self) {
        let same = (&self.name, &self.content, self.size, &self.owner)
            == (&other.name, &other.content, other.size, &other.owner);
        if self.attributes.is_none() && same {
            self.attributes.clone_from(&other.attributes);
        }
    }
}

/// The signed bytes: a bit for what is executable, one for whether there is a time, and the time.
fn body(attributes: Attributes, subject: Subject<'_>, owner: &[u8]) -> Body {
    let Attributes { executable, modified_ns } = attributes;
    let Subject { name, content, size, network } = subject;
    Body::new(DOMAIN, network)
        .field(name.as_bytes())
        .field(content.as_bytes())
        .field(owner)
        .number(size)
        .number(u64::from(executable) | u64::from(modified_ns.is_some()) << 1)
        .number(modified_ns.unwrap_or_default().cast_unsigned())
}
