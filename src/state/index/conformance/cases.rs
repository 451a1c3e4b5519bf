//! What a table has to do, case by case.

use super::*;

/// Everything that a table has to do. Each case has a table of its own.
pub(crate) fn conforms<S: Subject>(make: impl Fn() -> S) {
    let cases: [fn(&mut Index<S>); 13] = [
        grants_and_conflicts,
        refusals_change_nothing,
        sessions_fence,
        sequences_fence,
        revocation,
        the_end_of_a_report,
        eviction_in_slices,
        returning,
        returning_in_the_midst_of_eviction,
        versions_after_a_restart,
        damage,
        adoption_and_displacement,
        bounds,
    ];
    for case in cases {
        let mut index = Index::new(make());
        case(&mut index);
        index.check_counts();
    }
}

fn grants_and_conflicts<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    index.join(anna);
    index.join(ben);
    let verdicts = index.announce(anna, vec![offer("a", "1"), offer("b", "2"), offer("", "3")]);
    let (a, b) = (version(&verdicts[0]), version(&verdicts[1]));
    assert!(a < b && matches!(verdicts[2], Verdict::Refused(_)));
    assert_eq!(index.said.iter().map(Statement::version).collect::<Vec<_>>(), [a, b]);
    assert_eq!(index.announce(ben, vec![offer("a", "1")]), [Verdict::Conflict { owner: anna }]);
    // Nothing new, and something new.
    assert_eq!(version(&index.announce(anna, vec![offer("a", "1")])[0]), a);
    assert!(version(&index.announce(anna, vec![offer("a", "changed")])[0]) > b);
    let held = [index.entry("a").unwrap(), index.entry("b").unwrap()];
    assert_eq!(held[0].content, ContentId::of(b"changed"));
    assert_eq!(index.member(anna).unwrap().held, sum(&held));
    assert_eq!((index.service.totals().names, index.service.totals().peers), (2, 2));
    let (_, unchanged, _) = index.join_with(anna, sum(&held), false);
    assert!(unchanged);
}

fn refusals_change_nothing<S: Subject>(index: &mut Index<S>) {
    let [anna, stranger, _] = *IDS;
    index.share(anna, &["a"]);
    let before = index.subject.content();
    let lie = announce(anna, vec![offer("b", "2")], Some(Some(ShareSum::default())), BTreeMap::new());
    assert_eq!(index.write(&lie).unwrap_err().code, RefusalCode::Differs);
    assert!(index.said.is_empty());
    for op in [
        announce(stranger, vec![offer("b", "2")], None, BTreeMap::new()),
        WriteOp::Revoke { peer: stranger, names: vec!["a".to_owned()] },
        WriteOp::Again { peer: stranger, neighbours: 0 },
        WriteOp::Overtaken { peer: stranger, names: Vec::new() },
    ] {
        assert_eq!(index.write(&op).unwrap_err().code, RefusalCode::NotJoined);
    }
    assert_eq!(index.subject.content(), before);
    // The report goes on where it was.
    let held = [index.entry("a").unwrap()];
    index.write(&announce(anna, Vec::new(), Some(Some(sum(&held))), BTreeMap::new())).unwrap();
}

fn sessions_fence<S: Subject>(index: &mut Index<S>) {
    let [anna, ..] = *IDS;
    let first = index.join(anna);
    let second = index.join(anna);
    assert!(second > first);
    for change in [
        announce(anna, vec![offer("a", "1")], None, BTreeMap::new()),
        WriteOp::Revoke { peer: anna, names: vec!["a".to_owned()] },
        WriteOp::Again { peer: anna, neighbours: 0 },
    ] {
        let late = in_session(first, 9, Box::new(change));
        assert_eq!(index.write(&late).unwrap_err().code, RefusalCode::NotJoined);
    }
    assert_eq!(index.entry("a"), None);
    let change = announce(anna, vec![offer("a", "1")], None, BTreeMap::new());
    index.write(&in_session(second, 1, Box::new(change.clone()))).unwrap();
    index.evict(anna);
    let gone = index.write(&in_session(second, 2, Box::new(change))).unwrap_err();
    assert_eq!(gone.code, RefusalCode::NotJoined);
}

fn sequences_fence<S: Subject>(index: &mut Index<S>) {
    let [anna, ..] = *IDS;
    let session = index.join(anna);
    let change = |content: &str| Box::new(announce(anna, vec![offer("a", content)], None, BTreeMap::new()));
    index.write(&in_session(session, 1, change("old"))).unwrap();
    index.write(&in_session(session, 2, change("new"))).unwrap();
    let late = index.write(&in_session(session, 1, change("old"))).unwrap_err();
    assert_eq!(late.code, RefusalCode::Stale);
    assert_eq!(index.entry("a").unwrap().content, ContentId::of(b"new"));
    // The same again is no harm; numbers begin anew in a session.
    index.write(&in_session(session, 2, change("new"))).unwrap();
    let session = index.join(anna);
    index.write(&in_session(session, 1, change("old"))).unwrap();
}

fn revocation<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    let held = index.share(anna, &["a", "b"]);
    index.join(ben);
    assert_eq!(index.revoke(ben, "a"), RevokeOutcome::Conflict { owner: anna });
    assert_eq!(index.revoke(ben, "none"), RevokeOutcome::NotHeld);
    let RevokeOutcome::Revoked { version } = index.revoke(anna, "a") else { panic!() };
    assert!(version > held[1].version);
    assert_eq!((index.entry("a"), index.ended("a")), (None, Some(version)));
    assert!(matches!(&index.said[..], [Statement::Tombstone(end)] if end.version == version && end.owner == anna));
    assert_eq!(index.member(anna).unwrap().held, sum(&held[1..]));
    assert_eq!(index.revoke(anna, "a"), RevokeOutcome::NotHeld);
    // Above its end, whoever gets it.
    let again = self::version(&index.announce(ben, vec![offer("a", "2")])[0]);
    assert!(again > version);
    assert_eq!(index.ended("a"), None);
    // One that was given up while no master could be told.
    let names = vec![(parse("b"), held[1].version.next(0)), (parse("none"), again)];
    index.write(&WriteOp::Overtaken { peer: anna, names }).unwrap();
    assert!(index.entry("b").is_some(), "granted later");
    index.write(&WriteOp::Overtaken { peer: anna, names: vec![(parse("b"), held[1].version)] }).unwrap();
    assert!(index.entry("b").is_none() && index.ended("b") > Some(again));
}

fn the_end_of_a_report<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    let held = index.share(anna, &["a", "b", "c"]);
    index.share(ben, &["d"]);
    index.join_with(anna, sum(&held[..2]), false);
    index.announce(anna, vec![offer("a", "a"), offer("c", "new")]);
    let told = [index.entry("a").unwrap(), index.entry("c").unwrap()];
    assert_eq!(told[0], held[0]);
    let end = |total| announce(anna, Vec::new(), Some(Some(total)), BTreeMap::new());
    assert_eq!(index.write(&end(sum(&held))).unwrap_err().code, RefusalCode::Differs);
    assert!(index.entry("b").is_some());
    index.write(&end(sum(&told))).unwrap();
    assert_eq!(index.entry("b"), None);
    assert!(index.ended("b") > Some(told[1].version));
    assert!(index.entry("d").is_some(), "of another");
    // Once.
    index.write(&end(ShareSum::default())).unwrap();
    assert_eq!(index.member(anna).unwrap().held, sum(&told));
}

fn eviction_in_slices<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    let held = index.share(anna, &["a", "b", "c", "d", "e"]);
    index.share(ben, &["x"]);
    let first = index.write(&WriteOp::Evict { peer: anna }).unwrap();
    assert_eq!(first, WriteOutcome::Evicted { names: SLICES.evicted });
    assert_eq!(index.member(anna).unwrap().held, sum(&held[3..]));
    assert_eq!(index.evict(anna), 2);
    assert_eq!(index.write(&WriteOp::Evict { peer: anna }), Ok(WriteOutcome::Evicted { names: 0 }));
    let last = index.entry("x").unwrap().version;
    let ended: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| index.ended(name).unwrap()).into();
    assert!(ended.is_sorted() && ended[0] > last);
    let content = index.subject.content();
    assert!(content.tombstones.iter().all(|(_, owner, _, _, evicted)| *owner == anna && *evicted));
    assert_eq!(content.left.len(), 5);
    assert_eq!(content.departures[0].1.departure.sum, sum(&held));
}

fn returning<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    let held = index.share(anna, &["a", "b", "c", "d", "e"]);
    index.evict(anna);
    index.share(ben, &["b", "d"]);
    index.revoke(ben, "d");
    let (session, unchanged, again) = index.join_with(anna, sum(&held), true);
    assert!(again && !unchanged);
    let (mut except, mut version) = (Vec::new(), None);
    loop {
        let returned = index.again(anna, session).unwrap();
        assert!(*version.get_or_insert(returned.version) == returned.version);
        except.extend(returned.except);
        if returned.through.is_none() {
            break;
        }
    }
    assert_eq!(except, ["b", "d"], "one is taken, and one was");
    let back: Vec<_> = ["a", "c", "e"].map(|name| index.entry(name).unwrap()).into();
    assert!(back.iter().all(|entry| Some(entry.version) == version && entry.owner == anna));
    assert_eq!(index.member(anna).unwrap().held, sum(&back));
    assert_eq!(index.again(anna, session).unwrap_err().code, RefusalCode::Differs, "once");
    let content = index.subject.content();
    assert!(content.departures.is_empty() && content.left.is_empty());
    // Whoever comes with another share reports it.
    index.evict(anna);
    let (session, _, again) = index.join_with(anna, sum(&held), true);
    assert!(!again && index.again(anna, session).is_err());
}

fn returning_in_the_midst_of_eviction<S: Subject>(index: &mut Index<S>) {
    let [anna, ..] = *IDS;
    let held = index.share(anna, &["a", "b", "c", "d", "e"]);
    index.write(&WriteOp::Evict { peer: anna }).unwrap();
    let (session, _, again) = index.join_with(anna, sum(&held), true);
    assert!(again);
    let mut slices = 1;
    while index.again(anna, session).unwrap().through.is_some() {
        slices += 1;
    }
    assert_eq!(slices, 3);
    let content = index.subject.content();
    assert_eq!(content.names.len(), 5);
    assert!(content.names.iter().all(|(entry, of)| *of == session && entry.version > held[4].version));
}

fn versions_after_a_restart<S: Subject>(index: &mut Index<S>) {
    let [anna, ..] = *IDS;
    // Far above the clock: another may have given versions before.
    let lead = Version::default().next(NOON_MS + 600_000);
    assert!(index.service.totals().last > lead);
    let held = index.share(anna, &["a"]);
    let totals = index.service.totals();
    index.restart();
    assert_eq!(index.service.totals(), totals);
    index.at.unix_ms -= 3_600_000;
    assert!(version(&index.announce(anna, vec![offer("a", "new")])[0]) > held[0].version);
}

fn damage<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    let held = index.share(anna, &["a", "b"]);
    index.join(ben);
    index.subject.damage(&parse("a"));
    assert_eq!(index.entry("a"), None);
    let verdicts = index.announce(ben, vec![offer("a", "1")]);
    assert!(matches!(&verdicts[0], Verdict::Refused(refusal) if refusal.code == RefusalCode::Storage));
    let kept = index.subject.lend(|table| table.member(&anna)).unwrap().unwrap().held;
    let counted = index.subject.lend(|table| table.count(&anna)).unwrap();
    assert_eq!((kept, counted), (sum(&held), sum(&held[1..])));
    let corrections = corrections(&BTreeMap::from([(anna, kept)]), &BTreeMap::from([(anna, counted)]));
    let Index { subject, service, at, .. } = index;
    let corrected = subject.lend(|table| service.correct(table, &corrections[0], *at)).unwrap();
    assert_eq!(corrected.map(|(_, holding)| holding.sum), Some(counted));
    // Its owner gets it anew.
    assert!(version(&index.announce(anna, vec![offer("a", "a")])[0]) > held[1].version);
    index.restart();
}

fn adoption_and_displacement<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, _] = *IDS;
    index.join(anna);
    let last = index.service.totals().last;
    let before = certificate("a", ben, last.leap(7), NOON_MS);
    let mirror = BTreeMap::from([(parse("a"), tally([Statement::Certificate(before.clone())], NOON_MS))]);
    let Ok(WriteOutcome::Announced { verdicts, adopted, .. }) =
        index.write(&announce(anna, vec![offer("a", "1")], None, mirror))
    else {
        panic!()
    };
    assert_eq!(verdicts, [Verdict::Conflict { owner: ben }]);
    let entry = index.entry("a").unwrap();
    assert!(entry.owner == ben && entry.version > before.entry.version);
    assert_eq!(adopted[&ben].sum, sum([&entry]));
    assert_eq!(index.member(ben).unwrap().session, Session::default());
    // Anna shows that it was granted to her later, by an index that went back since.
    let later = certificate("a", anna, entry.version.leap(9), NOON_MS);
    let Ok(WriteOutcome::Announced { verdicts, adopted, .. }) =
        index.write(&announce(anna, vec![granted(&later)], None, BTreeMap::new()))
    else {
        panic!()
    };
    assert!(version(&verdicts[0]) > later.entry.version);
    assert_eq!(adopted[&ben].sum, ShareSum::default());
    assert_eq!(index.entry("a").unwrap().owner, anna);
    index.evict(ben);
}

fn bounds<S: Subject>(index: &mut Index<S>) {
    let [anna, ben, carl] = *IDS;
    for (peer, most) in [(anna, 6), (ben, 6), (carl, 0)] {
        index.join(peer);
        let offers = (0..9).map(|number| offer(&format!("{peer} {number}"), "x")).collect();
        let verdicts = index.announce(peer, offers);
        assert_eq!(verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Accepted { .. })).count(), most);
    }
    assert_eq!(index.service.totals().names, LIMITS.names);
}
