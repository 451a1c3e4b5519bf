//! What is counted of the DHT.

/// Counts of the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DhtCounts {
    /// Nodes in the routing table.
    pub nodes: usize,
    /// Names that this node stores statements about.
    pub records: usize,
    /// Pairs of a key and a node that this node stores.
    pub providers: usize,
    /// Closest-nodes queries since the start.
    pub closest_queries: u64,
    /// Messages sent to look records up since the start.
    pub lookup_requests: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted {
    /// A search for the nodes closest to a key.
    Closest,
    /// A message to look a record up.
    Lookup,
}
