//! How a node says in identify which build it is, which run, and in which role: one text, written and read here.

use swarmdex_protocols::index::Run;

use crate::config::Role;

/// At the end of the text of a master; all others are peers.
const MASTER: &str = "(master)";
const PEER: &str = "(peer)";

/// Agent version by which nodes tell their run and, at its end, their role.
pub(super) fn agent_version(role: Role, run: Run) -> String {
    let role = match role {
        Role::Master => MASTER,
        Role::Peer => PEER,
    };
    format!("swarmdex/{} {} {role}", env!("CARGO_PKG_VERSION"), run.word())
}

/// The role that an agent version tells. Whoever tells none is a peer.
pub(super) fn role_of(agent_version: &str) -> Role {
    if agent_version.ends_with(MASTER) { Role::Master } else { Role::Peer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for role in [Role::Master, Role::Peer] {
            let said = agent_version(role, Run(7));
            assert_eq!((role_of(&said), Run::of_agent(&said)), (role, Some(Run(7))), "{said}");
        }
        assert_eq!(role_of("a build of another program"), Role::Peer);
    }
}
