//! Histories by chance, over two tables at once.

use proptest::prelude::*;

use super::*;

/// Something that happens to an index. Numbers stand for peers, names and contents.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Join {
        peer: usize,
        exact: bool,
        again: bool,
    },
    /// Joins with what the peer left with.
    Return {
        peer: usize,
    },
    Announce {
        peer: usize,
        names: Vec<(u8, u8)>,
        shown: Shown,
        end: Option<bool>,
        late: bool,
    },
    Again {
        peer: usize,
    },
    Revoke {
        peer: usize,
        names: Vec<u8>,
        late: bool,
    },
    Overtaken {
        peer: usize,
        name: u8,
    },
    Evict {
        peer: usize,
    },
    Damage {
        name: u8,
    },
    Restart,
    Clock(i32),
}

/// What is known of the first name of an announce beyond the index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown {
    Nothing,
    /// The mirror has a later certificate for a peer.
    Mirror(usize),
    /// The peer shows a grant, that many versions after the last.
    Grant(i8),
}

/// Things that happen, in any order.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = || 0..3usize;
    let name = || 0..9u8;
    let names = || prop::collection::vec((name(), 0..2u8), 0..6);
    let shown = prop_oneof![
        6 => Just(Shown::Nothing),
        1 => peer().prop_map(Shown::Mirror),
        1 => any::<i8>().prop_map(Shown::Grant),
    ];
    let late = || prop::bool::weighted(0.1);
    let end = || prop_oneof![2 => Just(None), 1 => Just(Some(true)), 1 => Just(Some(false))];
    let step = prop_oneof![
        2 => (peer(), any::<bool>(), any::<bool>()).prop_map(|(peer, exact, again)| Step::Join { peer, exact, again }),
        2 => peer().prop_map(|peer| Step::Return { peer }),
        6 => (peer(), names(), shown, end(), late())
            .prop_map(|(peer, names, shown, end, late)| Step::Announce { peer, names, shown, end, late }),
        3 => peer().prop_map(|peer| Step::Again { peer }),
        2 => (peer(), prop::collection::vec(name(), 0..4), late())
            .prop_map(|(peer, names, late)| Step::Revoke { peer, names, late }),
        1 => (peer(), name()).prop_map(|(peer, name)| Step::Overtaken { peer, name }),
        2 => peer().prop_map(|peer| Step::Evict { peer }),
        1 => name().prop_map(|name| Step::Damage { name }),
        1 => Just(Step::Restart),
        1 => (-3_600_000..3_600_000i32).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 0..60)
}

/// What a step asks of an index, as it is before the step. `None` for what is no request.
fn request<S: Subject>(index: &mut Index<S>, step: &Step) -> Option<WriteOp> {
    let text = |name: &u8| format!("name {name}");
    let content = index.subject.content();
    let of = |peer: PeerId| sum(content.names.iter().map(|(entry, _)| entry).filter(|entry| entry.owner == peer));
    let session_of = |peer| content.members.iter().find(|(member, _)| *member == peer).map(|(_, row)| row.session);
    let change = |peer, late: bool, change| {
        let session = session_of(peer).unwrap_or_default();
        let session = if late { Session(session.0.saturating_sub(1)) } else { session };
        Some(in_session(session, content.last.0, Box::new(change)))
    };
    let join = |peer, share: ShareSum, again| {
        let ShareSum { entries, digest } = share;
        Some(WriteOp::Join { peer, addresses: Vec::new(), digest, entries, seen: Version::default(), again })
    };
    match step {
        Step::Join { peer, exact, again } => {
            let share = ShareSum { entries: 3, digest: ShareDigest::empty() };
            join(IDS[*peer], if *exact { of(IDS[*peer]) } else { share }, *again)
        }
        Step::Return { peer } => {
            let noted = content.departures.iter().find(|(left, _)| *left == IDS[*peer]);
            join(IDS[*peer], noted.map(|(_, noted)| noted.departure.sum).unwrap_or_default(), true)
        }
        Step::Announce { peer, names, shown, end, late } => {
            let peer = IDS[*peer];
            let mut offers: Vec<_> =
                names.iter().map(|(name, content)| offer(&text(name), &content.to_string())).collect();
            let mut mirror = BTreeMap::new();
            if let Some(first) = offers.first_mut() {
                let name = first.name.clone();
                let shown_at = |owner, after: i64| {
                    let version = Version(content.last.0.saturating_add_signed(after));
                    certificate(&name, owner, version, index.at.unix_ms)
                };
                match shown {
                    Shown::Nothing => {}
                    Shown::Mirror(owner) => {
                        let said = Statement::Certificate(shown_at(IDS[*owner], 1));
                        mirror.insert(parse(&name), tally([said], index.at.unix_ms));
                    }
                    Shown::Grant(after) => *first = granted(&shown_at(peer, i64::from(*after))),
                }
            }
            // What was granted since the join, or nothing.
            let session = session_of(peer);
            let told = content.names.iter().filter(|(entry, of)| entry.owner == peer && Some(*of) == session);
            let total = end.map(|whole| whole.then(|| sum(told.map(|(entry, _)| entry))));
            let offers = if total.is_some() { Vec::new() } else { offers };
            change(peer, *late, announce(peer, offers, total, mirror))
        }
        Step::Again { peer } => change(IDS[*peer], false, WriteOp::Again { peer: IDS[*peer], neighbours: 1 }),
        Step::Revoke { peer, names, late } => {
            let names = names.iter().map(text).collect();
            change(IDS[*peer], *late, WriteOp::Revoke { peer: IDS[*peer], names })
        }
        Step::Overtaken { peer, name } => {
            let held = content.names.iter().find(|(entry, _)| entry.name.as_str() == text(name));
            let names = held.map(|(entry, _)| (entry.name.clone(), entry.version)).into_iter().collect();
            Some(WriteOp::Overtaken { peer: IDS[*peer], names })
        }
        Step::Evict { peer } => Some(WriteOp::Evict { peer: IDS[*peer] }),
        Step::Damage { name } => {
            index.subject.damage(&parse(&text(name)));
            None
        }
        Step::Restart => {
            index.restart();
            None
        }
        Step::Clock(jump) => {
            index.at.unix_ms = index.at.unix_ms.saturating_add_signed(i64::from(*jump));
            None
        }
    }
}

/// That two tables answer alike, say the same, and hold the same, whatever happens.
pub(crate) fn agree<A: Subject, B: Subject>(one: A, other: B, steps: &[Step]) {
    let (mut one, mut other) = (Index::new(one), Index::new(other));
    for step in steps {
        let (op, same) = (request(&mut one, step), request(&mut other, step));
        if let (Some(op), Some(same)) = (op, same) {
            assert_eq!(one.write(&op), other.write(&same), "{step:?}");
            assert_eq!(one.said, other.said, "{step:?}");
        }
        assert_eq!(one.service.totals(), other.service.totals(), "{step:?}");
        assert_eq!(one.subject.content(), other.subject.content(), "{step:?}");
    }
}
