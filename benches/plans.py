"""What happens in a round of benches/crash, decided by its seed alone before anything is started.

A plan has the names that each peer shares first, what each peer is asked meanwhile (`clients`: pause, operation, name), and the
steps of whoever kills, one after the other:

  kill NODES AFTER              kill -9 of all of them at once
  stop NODES AFTER              SIGTERM, and their end
  start NODE AFTER DISK         with its disk (same); as it was at an earlier crash (old, and which of them); with nothing but its
                                key (empty), or without that (bare)
  do NODE OPERATION NAME        asks, and waits for the answer
  heels NODE OPERATION NAME NODES    asks, and kills as soon as the answer is there
  under NODE OPERATION NAME NODES AFTER    asks, and kills so long after that
  take NODE NAME SECONDS        shares the name until it is certified
  watch NAMES SECONDS           looks these up at every node that is up
  alone, joined                 until the peers that are up miss the master, or have joined it
  bulk NODE, more NODE COUNT    shares a folder of many files; adds and removes some
  wait SECONDS
"""
import random

PEERS = ["p0", "p1", "p2"]
# Names that all peers want.
CONTESTED = ["x1", "x2", "x3", "x4"]


def plan(seed, lease, only=None):
    """The plan of a seed. Seeds in a row have different kinds."""
    rng = random.Random(seed)
    kind = only or list(KINDS)[seed % len(KINDS)]
    peers = rng.sample(PEERS, len(PEERS))
    before = {peer: [f"{peer} {letter}" for letter in "abc"] for peer in PEERS}
    made = {"seed": seed, "kind": kind, "before": before, "clients": {peer: client(rng, peer) for peer in PEERS}, "gone": [],
            "last": rng.random() < 0.35, "gets": [(rng.choice(PEERS), rng.random()) for _ in range(3)]}
    made["steps"] = KINDS[kind](rng, peers, lease, made)
    return made


def client(rng, peer):
    """What a peer is asked beside what the steps are about: contested names, and the third of its own."""
    asked = []
    for _ in range(rng.randint(4, 14)):
        kinds = ["share", "revoke", "own", "lookup", "get"]
        [kind] = rng.choices(kinds, [4, 3, 2, 3, 1])
        if kind == "own":
            asked.append((rng.uniform(0, 0.4), rng.choice(["share", "change", "revoke"]), f"{peer} c"))
        elif kind in ("lookup", "get"):
            asked.append((rng.uniform(0, 0.4), kind, rng.choice([*CONTESTED, "p0 c", "p1 b", "p2 a"])))
        else:
            asked.append((rng.uniform(0, 0.4), kind, rng.choice(CONTESTED)))
    return asked


def some_disk(rng):
    [disk] = rng.choices(["same", "old", "empty"], [7, 2, 1])
    return [disk, rng.random()]


SAME = ["same", 0]


def storm(rng, peers, lease, made):
    """Anybody is killed, and comes back with any disk."""
    steps = []
    for _ in range(rng.randint(1, 3)):
        one, other, _ = rng.sample(peers, 3)
        victims = rng.choice([["m"], ["m"], [one], ["m", one], ["m", one, other], [one, other]])
        steps.append(("kill", victims, rng.uniform(0, 1.2)))
        for victim in rng.sample(victims, len(victims)):
            pause = rng.choice([0, rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0, lease + 1)])
            disk = some_disk(rng) if victim == "m" else rng.choice([SAME, SAME, some_disk(rng), ["bare", 0]])
            steps.append(("start", victim, pause, disk))
    return steps


def away(rng, peers, lease, made):
    """A name is given up while the master is away, and its owner dies before it is back."""
    owner, other, _ = peers
    names = [f"{owner} a", f"{owner} b"][:rng.randint(1, 2)]
    steps = [("wait", rng.uniform(1.5, 2.2)), ("kill", ["m"], 0)]
    if rng.random() < 0.7:
        steps.append(("alone",))
    steps += [("do", owner, "revoke", name) for name in names]
    steps.append(("kill", [owner], rng.choice([0, rng.uniform(0, 0.4)])))
    if rng.random() < 0.2:
        steps += [("kill", [other], 0), ("start", other, rng.uniform(0, 0.3), SAME), ("wait", 0.5)]
    steps += [("start", "m", rng.uniform(0, 1), SAME), ("watch", names, lease * rng.choice([0.4, 1.5]))]
    if rng.random() < 0.3:
        made["gone"].append(owner)
    else:
        steps.append(("start", owner, 0, SAME))
    return steps


def heels(rng, peers, lease, made):
    """Master and owner die on the heels of an answer, and the master comes back alone."""
    owner, other, _ = peers
    steps = []
    for name in [f"{owner} n", f"{other} n"]:
        owner = name.split()[0]
        victims = rng.choice([["m", owner], [owner, "m"], ["m"]])
        steps += [("wait", rng.uniform(0, 0.4)), ("heels", owner, rng.choice(["share", "share", "change"]), name, victims)]
        steps += [("start", "m", rng.uniform(0, 0.3), SAME), ("watch", [name], rng.uniform(0.2, 0.8))]
        steps += [("start", owner, rng.uniform(0, 0.5), SAME)] if owner in victims else []
        steps.append(("joined",))
    return steps


def given_up(rng, peers, lease, made):
    """Master and owner die on the heels of a revoke that was acknowledged."""
    owner = peers[0]
    victims = rng.choice([["m", owner], [owner, "m"]])
    steps = [("wait", rng.uniform(0, 0.4)), ("heels", owner, "revoke", f"{owner} a", victims)]
    steps += [("start", "m", rng.uniform(0, 0.5), SAME), ("watch", [f"{owner} a"], rng.choice([0.5, lease + 1]))]
    return [*steps, ("start", owner, rng.uniform(0, 0.5), SAME)]


def takeover(rng, peers, lease, made):
    """A dead owner's name goes to another once its lease is over, and not before."""
    owner, other, third = peers
    steps = [("wait", rng.uniform(0, 0.5)), ("kill", [owner], 0)]
    if rng.random() < 0.5:
        steps += [("kill", ["m"], rng.uniform(0, 1)), ("start", "m", rng.uniform(0, 0.5), SAME)]
    steps.append(("take", other, f"{owner} a", lease + 5))
    if rng.random() < 0.4:
        steps.append(("heels", third, "share", f"{owner} b", rng.choice([["m"], ["m", third]])))
        steps += [("start", "m", rng.uniform(0, 0.3), SAME), ("start", third, 0, SAME)]
    return [*steps, ("start", owner, rng.uniform(0, 0.5), SAME), ("joined",)]


def rollback(rng, peers, lease, made):
    """The master's disk goes back to an earlier copy: what was granted and given up since is known to others."""
    owner, other, third = peers
    steps = [("wait", rng.uniform(0.3, 1.5)), ("kill", ["m"], 0), ("start", "m", 0, SAME), ("joined",)]
    steps += [("do", other, "share", f"{other} n"), ("do", owner, "revoke", f"{owner} a"), ("do", third, "change", f"{third} b")]
    steps.append(("wait", rng.choice([0, 1.8])))
    victims = rng.choice([["m"], ["m"], ["m", other], ["m", owner]])
    steps += [("kill", victims, 0), ("start", "m", rng.uniform(0, 0.5), ["old", 0])]
    names = [f"{other} n", f"{owner} a", f"{third} b"]
    steps += [("watch", names, rng.uniform(0.5, lease)), ("take", third, f"{other} n", rng.uniform(0, 1))]
    return [*steps, *(("start", victim, rng.uniform(0, 0.5), SAME) for victim in victims if victim != "m")]


def lost(rng, peers, lease, made):
    """The master loses its disk, and has only its key."""
    owner, other, third = peers
    steps = [("do", owner, "share", f"{owner} n"), ("wait", rng.choice([0, 1.8]))]
    victims = rng.choice([["m"], ["m"], ["m", owner], [owner, "m", other]])
    steps += [("kill", victims, 0), ("start", "m", rng.uniform(0, 0.5), ["empty", 0])]
    steps += [("take", third, f"{owner} n", rng.uniform(0.3, 1.5)), ("watch", [f"{owner} a", f"{owner} n"], 0.5)]
    return [*steps, *(("start", victim, rng.uniform(0, lease), SAME) for victim in victims if victim != "m")]


def download(rng, peers, lease, made):
    """Downloads are cut off, of the side that sends or of the one that receives."""
    owner, other, third = peers
    name = f"{owner} large"
    steps = [("do", owner, "share", name)]
    for _ in range(2):
        taker = rng.choice([other, third])
        victims = rng.choice([[taker], [taker], [owner], [taker, owner], ["m", taker], ["m"]])
        steps += [("under", taker, "get", name, victims, rng.uniform(0, 0.25))]
        steps += [("start", victim, rng.uniform(0, 0.3), SAME) for victim in victims]
    return [*steps, ("joined",), ("do", other, "get", name), ("do", third, "get", name)]


def owners_disk(rng, peers, lease, made):
    """An owner's disk goes back, or is lost with its key or without it."""
    owner = peers[0]
    steps = [("wait", rng.uniform(0, 0.5)), ("kill", [owner], 0), ("start", owner, 0, SAME), ("joined",)]
    steps += [("do", owner, "share", f"{owner} n"), ("do", owner, "revoke", f"{owner} a"), ("do", owner, "change", f"{owner} b")]
    victims = rng.choice([[owner], [owner, "m"]])
    steps.append(("kill", victims, rng.uniform(0, 0.3)))
    disk = [rng.choice(["old", "old", "empty", "bare"]), 0]
    starts = [("start", victim, rng.uniform(0, 0.3), SAME if victim == "m" else disk) for victim in victims]
    return [*steps, *rng.sample(starts, len(starts)), ("watch", [f"{owner} a", f"{owner} n"], rng.uniform(0.3, 1))]


def bulk(rng, peers, lease, made):
    """Master and owner are killed in the middle of a report of many batches, and files come and go."""
    owner = peers[0]
    steps = [("bulk", owner)]
    for _ in range(2):
        victims = rng.choice([["m"], [owner], ["m", owner]])
        steps.append(("kill", victims, rng.uniform(0, 0.8)))
        steps.append(("more", owner, rng.randint(0, 5)))
        steps += [("start", victim, rng.uniform(0, 0.5), SAME) for victim in rng.sample(victims, len(victims))]
    return [*steps, ("more", owner, rng.randint(0, 5))]


def claims(rng, peers, lease, made):
    """New names are wanted by several while the master is away."""
    one, other, third = peers
    steps = [("wait", rng.uniform(0.5, 1.5)), ("kill", ["m"], 0), ("alone",)]
    steps += [("do", one, "share", "z"), ("do", other, "share", "z"), ("do", third, "share", f"{one} a")]
    if rng.random() < 0.5:
        steps += [("do", one, "revoke", "z"), ("do", other, "share", "z")]
    victim = rng.choice([None, one, other])
    steps += [("kill", [victim], rng.uniform(0, 0.3))] if victim else []
    steps += [("start", "m", rng.uniform(0, 0.5), SAME), ("watch", ["z"], rng.uniform(0.3, 1))]
    return steps + ([("start", victim, rng.uniform(0, lease), SAME)] if victim else [])


def flicker(rng, peers, lease, made):
    """The master is killed again and again, as soon as it is back."""
    steps = []
    for _ in range(rng.randint(3, 6)):
        victims = ["m"] if rng.random() < 0.7 else ["m", rng.choice(peers)]
        steps.append(("kill", victims, rng.choice([0, rng.uniform(0, 0.6)])))
        steps += [("start", victim, 0, SAME) for victim in victims]
    return steps


def leaving(rng, peers, lease, made):
    """A peer leaves in order and comes back, and somebody is killed meanwhile."""
    owner, other, third = peers
    steps = [("stop", [owner], rng.uniform(0, 0.5)), ("take", other, f"{owner} a", 1.5)]
    victims = rng.choice([[], ["m"], [other], ["m", other]])
    steps += [("kill", victims, 0), *(("start", victim, rng.uniform(0, 0.5), SAME) for victim in victims)]
    steps += [("start", owner, rng.uniform(0, 0.3), SAME), ("kill", [rng.choice(["m", owner])], rng.uniform(0, 0.4))]
    return [*steps, ("start", "m", 0, SAME), ("start", owner, 0, SAME)]


KINDS = {kind.__name__: kind for kind in (storm, away, heels, given_up, takeover, rollback, lost, download, owners_disk, bulk,
                                          claims, flicker, leaving)}
