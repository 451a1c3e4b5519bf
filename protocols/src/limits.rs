//! Every bound of the wire, with its unit and its reason.

/// Longest name, in bytes of UTF-8: what common file systems allow for a path is a little more.
pub const MAX_NAME_BYTES: usize = 1024;
/// Longest segment of a name, in bytes of UTF-8: `NAME_MAX` of Linux, macOS and NTFS.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// Longest name of a network, in bytes: it is part of protocol ids and of every signature.
pub const MAX_NETWORK_BYTES: usize = 64;
/// Most entries in one announce, and most names in one revoke.
pub const MAX_BATCH_ENTRIES: usize = 1000;
/// Most addresses of one peer that are kept or passed on.
pub const MAX_ADDRESSES: usize = 16;
/// Longest address, in bytes of its binary form: ample for the longest DNS name with transport and peer id.
pub const MAX_ADDRESS_BYTES: usize = 400;
/// Most holders in the answer to one lookup.
pub const MAX_HOLDERS: usize = 32;
/// Most members in one answer to a request for members.
pub const MAX_MEMBERS: usize = 250;
/// Most entries in one page of search results.
pub const MAX_PAGE_ENTRIES: usize = 500;
/// Most ranges of names in one comparison.
pub const MAX_COMPARED_RANGES: usize = 16;
/// Most parts into which one range of names is divided in the answer.
pub const MAX_RANGE_PARTS: usize = 16;
/// Most names of one range that are listed in the answer; a range with more is divided.
pub const MAX_RANGE_NAMES: usize = 32;
/// Longest search query, in bytes.
pub const MAX_QUERY_BYTES: usize = 512;
/// Most terms in one search query.
pub const MAX_QUERY_TERMS: usize = 16;
/// Longest free text in a refusal, in bytes.
pub const MAX_REASON_BYTES: usize = 512;
/// Longest message of the index protocol, in bytes, either way.
pub const MAX_INDEX_MESSAGE: usize = 2 << 20;
/// Longest message about a renewal, in bytes, either way: two texts for people, and some numbers.
pub const MAX_RENEW_MESSAGE: usize = 2 << 10;
/// Longest value of a record in the DHT, in bytes: a revocation and a claim of the longest name.
pub const MAX_RECORD_BYTES: usize = 4 << 10;
/// Most records in one message of the mirror protocol.
pub const MAX_MIRROR_RECORDS: usize = 256;
/// Most keys that a node asks to be found under in one message of the mirror protocol, and as many no longer.
pub const MAX_MIRROR_KEYS: usize = 4096;
/// Most ranges in one question of the mirror protocol whether what its sender said is still stored.
pub const MAX_MIRROR_RANGES: usize = 64;
/// Most items in the answer, of all ranges together: keys of 32 bytes, or marks of 8.
pub const MAX_MIRROR_HELD: usize = 4096;
/// Most nodes that are found under one key. Every owner is found under the empty word: as many may be searched.
pub const MAX_PROVIDERS: usize = 512;
/// Most statements in one page of what a node stores in a part of the key space.
pub const MAX_STOCK_STATEMENTS: usize = 128;
/// Closer nodes in the answer to one find: as many as store a record.
pub const MAX_CLOSER: usize = 20;
/// Longest message of the mirror protocol, in bytes, either way.
pub const MAX_MIRROR_MESSAGE: usize = 2 << 20;
/// Longest request of the fetch protocol, in bytes: the content ids of many small files.
pub const MAX_FETCH_REQUEST: usize = 16 << 10;
/// Longest header of a fetch response, in bytes: the proofs of the chunks in one range, or other holders.
pub const MAX_FETCH_HEADER: usize = 64 << 10;
/// Most contents in one request for small files.
pub const MAX_FETCH_FILES: usize = 256;
/// Most chunks of a content of which any may be asked for at a time: one bit each in the request.
pub const MAX_ANY_CHUNKS: u64 = 8192;
/// Longest set of chunks that travels along with a request or with chunks, in bytes, one bit for each chunk: what larger contents
/// have is told when it is asked for.
pub const MAX_HAVE_ALONG: usize = 512;
/// Most other holders that one holder names, and most addresses of each.
pub const MAX_FETCH_OTHERS: usize = 32;
/// Most addresses of another holder, or of a node that is found under a key.
pub const MAX_OTHER_ADDRESSES: usize = 4;
/// Most raw bytes in one fetch response: one chunk of the largest size, or several small ones.
pub const MAX_FETCH_BODY: usize = 1 << 20;
/// Largest file, in bytes (16 TiB): keeps every count of chunks and every product of them inside 64 bits with room to spare.
pub const MAX_FILE_BYTES: u64 = 1 << 44;

// A full batch of the longest names must fit its message: text, content id, size, an earlier grant, attributes and map keys.
const _: () = assert!(MAX_BATCH_ENTRIES * (MAX_NAME_BYTES + 384) <= MAX_INDEX_MESSAGE);
// So must the names that are not granted again, and as many names with their seals.
const _: () = assert!(MAX_BATCH_ENTRIES * (MAX_NAME_BYTES + 160) + 64 <= MAX_INDEX_MESSAGE);
// So must a full page, whose entries carry owner and version as well.
const _: () = assert!(MAX_PAGE_ENTRIES * (MAX_NAME_BYTES + 352) <= MAX_INDEX_MESSAGE);
// A page of members with every address that each may have.
const _: () = assert!(MAX_MEMBERS * (MAX_ADDRESSES * (MAX_ADDRESS_BYTES + 8) + 128) <= MAX_INDEX_MESSAGE);
// And the answer to a lookup with every holder at its most talkative.
const _: () = assert!(MAX_HOLDERS * (MAX_ADDRESSES * (MAX_ADDRESS_BYTES + 8) + 128) + 4096 <= MAX_INDEX_MESSAGE);
const _: () = assert!(2 * MAX_REASON_BYTES + 256 <= MAX_RENEW_MESSAGE);
// Ranges that are compared, and the parts or names of each in the answer.
const _: () = assert!(MAX_COMPARED_RANGES * (2 * MAX_NAME_BYTES + 96) + 1024 <= MAX_INDEX_MESSAGE);
const _: () = assert!(MAX_COMPARED_RANGES * MAX_RANGE_PARTS * (MAX_NAME_BYTES + 96) <= MAX_INDEX_MESSAGE);
const _: () = assert!(MAX_COMPARED_RANGES * MAX_RANGE_NAMES * (MAX_NAME_BYTES + 32) <= MAX_INDEX_MESSAGE);
// A record holds at most a revocation and a claim, each with a name, hashes, peer id, dates and up to three signatures.
const _: () = assert!(2 * (MAX_NAME_BYTES + 640) <= MAX_RECORD_BYTES);
// A full batch of records, of keys and of keys no longer, with the sender's addresses, must fit its message.
const _: () =
    assert!(MAX_MIRROR_RECORDS * MAX_RECORD_BYTES + 2 * MAX_MIRROR_KEYS * 40 + 64 * 1024 <= MAX_MIRROR_MESSAGE);
// So must the ranges of a question, and the items of its answer.
const _: () = assert!(MAX_MIRROR_RANGES * 128 + MAX_MIRROR_HELD * 40 + MAX_MIRROR_RANGES * 32 <= MAX_MIRROR_MESSAGE);
// And all providers of a key.
const _: () = assert!(MAX_PROVIDERS * (MAX_OTHER_ADDRESSES * (MAX_ADDRESS_BYTES + 8) + 64) <= MAX_MIRROR_MESSAGE);
const _: () = assert!(
    MAX_STOCK_STATEMENTS * (MAX_RECORD_BYTES + 8)
        + MAX_PROVIDERS * (MAX_OTHER_ADDRESSES * (MAX_ADDRESS_BYTES + 8) + 64)
        + MAX_MIRROR_KEYS * 48
        + 64
        <= MAX_MIRROR_MESSAGE
);
// So must a page of an owner's statements.
const _: () = assert!(MAX_PAGE_ENTRIES * (MAX_RECORD_BYTES / 2) <= MAX_INDEX_MESSAGE);
// The ids of small files must fit their request, other holders with all their addresses the header.
const _: () = assert!(MAX_FETCH_FILES * 40 <= MAX_FETCH_REQUEST);
const _: () = assert!(MAX_ANY_CHUNKS as usize / 8 + 100 <= MAX_FETCH_REQUEST);
const _: () =
    assert!(MAX_FETCH_OTHERS * (MAX_OTHER_ADDRESSES * (MAX_ADDRESS_BYTES + 8) + 64) + 1024 <= MAX_FETCH_HEADER);
