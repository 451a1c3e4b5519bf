//! Which of the flags that every verb takes are in the help of one.

/// Which of the flags that say what kind of node to run have a meaning for a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeFlags {
    /// All: it runs a node.
    All,
    /// Those by which a node that lives for one command enters the network.
    Enter,
    /// Those that say which node is meant.
    Which,
    /// These, and those that say what of folders is shared.
    Share,
    /// None: it needs no node.
    None,
}

/// Which of the flags that every verb takes have a meaning for one, and are in its help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// Flags of a node.
    pub(super) node: NodeFlags,
    /// `--json`.
    pub(super) json: bool,
    /// `--verbose`.
    pub(super) verbose: bool,
}

impl Shown {
    /// For verbs that ask the node that runs.
    pub(super) const RUNNING: Self = Self { node: NodeFlags::Which, json: true, verbose: false };
    /// For those that start a node if none runs.
    pub(super) const ASKS: Self = Self { node: NodeFlags::Enter, ..Self::RUNNING };
    /// For one that runs a node.
    pub(super) const NODE: Self = Self { node: NodeFlags::All, json: false, verbose: false };
    /// For those that need no node.
    pub(super) const NOTHING: Self = Self { node: NodeFlags::None, json: false, verbose: false };
}
