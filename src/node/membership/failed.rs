//! Why a session with the master fails.

use swarmdex_protocols::index::{Refusal, RefusalCode};

use crate::net::RequestError;

/// Why the master has no answer, or a session with it is over. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// It refused.
    #[error("it refused: {}", .0.reason)]
    Refused(Refusal),
    /// It was too busy, as often as it was asked.
    #[error("it is busy")]
    Busy,
    /// No answer came.
    #[error(transparent)]
    IndexRequest(#[from] RequestError),
    /// Its answer is to another question.
    #[error("its answer does not fit the question")]
    Misfit,
    /// It does not count what it granted as this node does.
    #[error("it counts otherwise what it granted, again and again")]
    Miscounted,
    /// The connection is gone.
    #[error("the connection was lost")]
    Lost,
    /// This node is ending.
    #[error("the share table is closed")]
    NoShares,
    /// This node is ending.
    #[error("the node is stopping")]
    Stopping,
}

impl Failed {
    /// The code of a refusal.
    pub(super) fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::Busy => Some(RefusalCode::Busy),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_says_whose_it_is() {
        let failed = Failed::Refused(Refusal::new(RefusalCode::Differs, "another digest"));
        assert_eq!(
            (failed.code(), failed.to_string()),
            (Some(RefusalCode::Differs), "it refused: another digest".into())
        );
        let failed = Failed::from(RequestError::TimedOut);
        assert_eq!((failed.code(), failed.to_string()), (None, "no answer came in time".into()));
    }
}
