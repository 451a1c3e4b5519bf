//! Where records of TLS begin and end in what a socket brings, so that nobody is woken for a part of one.

/// What both sides say before the first record: that they speak multistream-select, and that TLS is chosen.
const GREETING: &[u8] = b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n";
/// Type (1 byte), version (2) and length (2) of a record. Source: RFC 8446, section 5.1.
const HEADER: usize = 5;
/// Longest record that TLS 1.3 knows, in bytes behind its header (RFC 8446, section 5.2).
const MAX_RECORD: usize = (1 << 14) + 256;

/// The place in the bytes of a connection that came so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// How many bytes of the greeting came.
    Greeting(usize),
    /// How many bytes of a header came, and the length as far as it is known.
    Header(usize, usize),
    /// How many bytes of a record are missing, at least one.
    Record(usize),
    /// This is no TLS: nothing can be said.
    Unknown,
}

impl Default for Records {
    fn default() -> Self {
        Self::Greeting(0)
    }
}

impl Records {
    /// More bytes came.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            let (next, used) = match *self {
                Self::Greeting(at) if GREETING.get(at) == Some(first) => {
                    (if at + 1 == GREETING.len() { Self::Header(0, 0) } else { Self::Greeting(at + 1) }, 1)
                }
                Self::Greeting(_) | Self::Unknown => return *self = Self::Unknown,
                Self::Header(at, length) => {
                    // The length is in the last two bytes; those before it have no say.
                    let length = if at + 2 >= HEADER { length << 8 | usize::from(*first) } else { 0 };
                    match length {
                        _ if at + 1 < HEADER => (Self::Header(at + 1, length), 1),
                        0 => (Self::Header(0, 0), 1),
                        1..=MAX_RECORD => (Self::Record(length), 1),
                        _ => return *self = Self::Unknown,
                    }
                }
                Self::Record(missing) if bytes.len() < missing => (Self::Record(missing - bytes.len()), bytes.len()),
                Self::Record(missing) => (Self::Header(0, 0), missing),
            };
            *self = next;
            bytes = &bytes[used..];
        }
    }

    /// How many bytes have to come before anything can be done with them, as far as one can tell; at least one.
    pub(super) fn missing(&self) -> usize {
        match self {
            Self::Record(missing) => *missing,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(length: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3];
        bytes.extend_from_slice(&(length as u16).to_be_bytes());
        bytes.resize(HEADER + length, 0xff);
        bytes
    }

    #[test]
    fn the_rest_of_a_record_is_missing_and_nothing_between_records() {
        let mut records = Records::default();
        records.advance(GREETING);
        assert_eq!(records.missing(), 1);
        records.advance(&record(16_401)[..1000]);
        assert_eq!(records.missing(), 16_401 + HEADER - 1000);
        records.advance(&record(16_401)[1000..]);
        assert_eq!(records.missing(), 1);
        records.advance(&record(0));
        records.advance(&[23, 3, 3, 1]);
        assert_eq!(records.missing(), 1);
        records.advance(&[4]);
        assert_eq!(records.missing(), 260);
    }

    #[test]
    fn of_what_is_no_tls_nothing_is_said() {
        for other in
            [&b"\x13/multistream/1.0.0\n\x07/noise\n"[..], b"GET / HTTP/1.1", b"\x13/multistream/1.0.0\n\x03na\n"]
        {
            let mut records = Records::default();
            records.advance(other);
            records.advance(&record(9)[..7]);
            assert_eq!((records, records.missing()), (Records::Unknown, 1));
        }
        let mut records = Records::Header(0, 0);
        records.advance(&[23, 3, 3, 0xff, 0xff, 0]);
        assert_eq!(records, Records::Unknown);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(lengths in prop::collection::vec(0usize..=MAX_RECORD, 1..6), cuts in prop::collection::vec(1usize..9000, 1..20)) {
            let mut bytes = GREETING.to_vec();
            lengths.iter().for_each(|length| bytes.extend(record(*length)));
            let mut records = Records::default();
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = (*cuts.next().unwrap()).min(rest.len());
                records.advance(&rest[..cut]);
                rest = &rest[cut..];
                prop_assert!(records.missing() <= rest.len().max(1), "more is waited for than will come");
            }
            prop_assert_eq!(records, Records::Header(0, 0));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut records = Records::Header(0, 0);
            records.advance(&bytes);
            prop_assert!((1..=MAX_RECORD).contains(&records.missing()));
        }
    }
}
