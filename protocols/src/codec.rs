//! CBOR (RFC 8949) to bytes and back, under a limit. The only file that names the CBOR library.

use serde::{Serialize, de::DeserializeOwned};

use crate::limits::MAX_REASON_BYTES;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the message may have.
    #[error("message of {actual} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Length that arrived or was declared, in bytes.
        actual: u64,
        /// Limit in bytes.
        limit: usize,
    },
    /// The bytes end before the message does.
    #[error("message is truncated")]
    Truncated,
    /// The bytes are no CBOR, or not of this message's form.
    #[error("message is malformed: {0}")]
    Malformed(String),
    /// A message of a kind that this version does not know.
    #[error("message is of an unknown kind: {0}")]
    UnknownVariant(String),
    /// Bytes follow after the message.
    #[error("message is followed by other bytes")]
    TrailingBytes,
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message is longer than its receiver accepts.
    #[error("message of {actual} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Length in bytes.
        actual: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// The value has no form in CBOR.
    #[error("message cannot be encoded: {0}")]
    Unencodable(String),
}

/// Encodes `value`, in at most `max` bytes. All of it is encoded before its length is known.
///
/// # Errors
/// [`EncodeError::TooLarge`] if it takes more bytes, [`EncodeError::Unencodable`] if the value has no form in CBOR.
pub fn encode<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, EncodeError> {
    let bytes = serde_cbor::to_vec(value).map_err(|e| EncodeError::Unencodable(e.to_string()))?;
    if bytes.len() > max {
        return Err(EncodeError::TooLarge { actual: bytes.len(), limit: max });
    }
    Ok(bytes)
}

/// Decodes one value that fills `bytes` exactly; at most `max` bytes are looked at.
///
/// # Errors
/// - [`DecodeError::TooLarge`]: there are more than `max` bytes.
/// - [`DecodeError::Truncated`]: they end before the value does. [`DecodeError::TrailingBytes`]: they go on after it.
/// - [`DecodeError::UnknownVariant`]: the value is of a kind that this version does not know.
/// - [`DecodeError::Malformed`]: they are no CBOR, or not of the form of `T`. Texts in errors have at most [`MAX_REASON_BYTES`] bytes
///   of what the library said.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLarge { actual: bytes.len() as u64, limit: max });
    }
    let mut deserializer = serde_cbor::Deserializer::from_slice(bytes);
    let value = T::deserialize(&mut deserializer).map_err(classify)?;
    deserializer.end().map_err(|_| DecodeError::TrailingBytes)?;
    Ok(value)
}

fn classify(error: serde_cbor::Error) -> DecodeError {
    if error.is_eof() {
        return DecodeError::Truncated;
    }
    // The library has no code for this case; serde's wording of it is fixed.
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    let text = text.escape_debug().to_string();
    if text.starts_with("unknown variant") { DecodeError::UnknownVariant(text) } else { DecodeError::Malformed(text) }
}
