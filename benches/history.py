"""What crashes must not do, and whether a history of what nodes were asked, what they answered and when they were killed shows it.

A history is a list of events, each with the moments between which it took effect (seconds of one monotonic clock). What was under
way when a process was killed has no answer: it may have happened at any moment since it began, or never, and both are right. No
rule asks what a node thinks of itself; it is what others were told, what is on its disk and what it answers later that counts.

  one entry       A name at one version stands for one owner and one content, whoever says so and whenever.
  one owner       A name goes from one owner to another only if the first may have given it up: it was asked to, left in order,
                  its lease ran out, or its own disk forgot the name. A lease ran out if the master was up for as long and did
                  not hear it (one that began anew with a start of the master counts from there). A master whose disk was lost,
                  or is an old copy, may give away only what nobody told it. That is not what an owner holds who is up, nor what
                  the DHT had time to store (see PUBLISHED) at a node that has been up ever since.
  forward         What the master answers about a name never goes back to an earlier version, unless its own disk went back.
  acknowledged    What the master granted it lists, and has on its disk when it is killed, until its owner may have lost it by the
                  rule above. A master whose disk went back knows it again in the end.
  disk of owners  What share answered is shared after any restart, what revoke answered is not. Of what had no answer either is
                  right, and what an old copy of a data directory holds is what counts after that copy was put back.
  undead          What an owner gave up the master confirms to nobody any more: from the moment it acknowledged that, whatever
                  happens to it but the loss of its disk. What was given up without it counts from its return on, if anybody is
                  up who heard of it (see ACQUAINTED). A peer that is gone holds nothing once its lease is over, and nobody what it
                  never shared.
  equal files     What was downloaded is, byte by byte, what somebody shared under the name; and a file that a killed download
                  left in place is whole.
  whole databases SQLite finds every database sound, after every crash.
  settling        Once everything is up again all agree, within a generous time: a name that somebody shares has one certified
                  owner, the same for all, with the content that is on the owner's disk. The others are told whose it is, and the
                  master lists these names alone.
  without it      When the master then dies, the others find just these names, and none that was given up.
  comes back      A node starts again after any crash, with whatever disk a rule above speaks of.

Times are those of the one who asks, so a rule about time is bent by how long this machine stood still (stall).
"""
import collections

# How long the DHT may take to store what was granted or given up, and nodes to know each other, in seconds.
PUBLISHED, ACQUAINTED = 2.0, 2.0
# A command that took longer gave up waiting: what it said is not what the network did.
PATIENCE = 4.5
# How much later than its end a lease may be noticed.
LATE = 3.0
FOREVER = float("inf")

Violation = collections.namedtuple("Violation", "rule text")
# A run of a node: when it was started and ready, when it was ended and gone, with which disk, and as of when that was.
Life = collections.namedtuple("Life", "begin ready dying dead disk of orderly")
# That a name stands for something, said between two moments by the master, the DHT or the owner itself.
Said = collections.namedtuple("Said", "begin end name owner version content source")
# Since when an owner wants a name (yes, no, maybe), and the event that is why.
Intent = collections.namedtuple("Intent", "at state why")


class History:
    """The events, by what the rules ask of them."""
    def __init__(self, events):
        self.events = sorted(events, key=lambda event: event["begin"])
        settings = next((event for event in events if event["kind"] == "settings"), {})
        self.lease, ping = settings.get("lease", 30.0), settings.get("ping", 4.0)
        stall = max((event["seconds"] for event in self.of("stall")), default=0.0)
        # The last sign of life is up to a ping older than an answer that says that a peer is alive.
        self.early, self.late = ping + 0.3 + 2 * stall, LATE + 4 * stall
        self.lives = collections.defaultdict(list)
        self.heard = collections.defaultdict(list)
        self.intents = collections.defaultdict(list)
        self.said = collections.defaultdict(list)
        for event in self.events:
            self.take(event)
        for said in self.said.values():
            said.sort(key=lambda one: one.end)

    def of(self, *kinds):
        return (event for event in self.events if event["kind"] in kinds)

    def take(self, event):
        kind, who = event["kind"], event.get("who")
        if kind == "start":
            ready = event["end"] if event.get("answer", True) else FOREVER
            life = Life(event["begin"], ready, FOREVER, FOREVER, event["disk"], event.get("of"), False)
            self.lives[who].append(life)
        elif kind in ("kill", "stop") and self.lives[who]:
            life = self.lives[who][-1]
            self.lives[who][-1] = life._replace(dying=event["begin"], dead=event["end"], orderly=kind == "stop")
        elif kind == "heard":
            self.heard[who].append((event["begin"], event["end"]))
        for entry in entries_of(event):
            self.said[entry.name].append(entry)
        if kind in ("start", "share", "revoke"):
            self.intend(event)

    # What owners want.

    def intend(self, event):
        who, kind = event["who"], event["kind"]
        if kind == "start":
            if event["disk"] in ("same", "new"):
                return
            for owner, name in [key for key in self.intents if key[0] == who]:
                state = self.intent(who, name, event["of"]).state if event["disk"] == "old" else "no"
                self.intents[owner, name].append(Intent(event["begin"], state, event))
            return
        steps, answer = self.intents[who, event["name"]], event["answer"]
        before = steps[-1].state if steps else "no"
        goal = "yes" if kind == "share" else "no"
        if before != goal:
            steps.append(Intent(event["begin"], "maybe", event))
        if answer is None:
            return
        if "error" in answer:
            # What failed may have been done in part; but who says that there is nothing to give up has done nothing.
            refused = kind == "revoke" and answer["error"] == "not_found"
            after = before if refused or before == goal else "maybe"
        else:
            after = goal
        steps.append(Intent(event["end"], after, event))

    def intent(self, who, name, at):
        """What `who` wanted at a moment."""
        held = [step for step in self.intents.get((who, name), []) if step.at <= at]
        return held[-1] if held else Intent(0.0, "no", None)

    def wants(self, who, name, begin, end):
        """All that `who` may have wanted between two moments."""
        steps = self.intents.get((who, name), [])
        return {self.intent(who, name, begin).state, *(step.state for step in steps if begin < step.at <= end)}

    # Who was up.

    def was_up(self, who, begin, end):
        """Whether a node was surely up all the time."""
        return any(life.ready <= begin and end <= life.dying for life in self.lives[who])

    def witnesses(self, begin, end, but=()):
        """Peers that were up all the time."""
        return [who for who in self.lives if who != "m" and who not in but and self.was_up(who, begin, end)]

    def forgot(self, known, until):
        """Starts of the master with a disk that does not know what was known at a moment, by another."""
        def lost(life):
            return life.disk == "empty" or (life.disk == "old" and life.of < known)
        return [life for life in self.lives["m"] if known < life.begin <= until and lost(life)]

    def went_back(self):
        """Whether the master's disk ever did."""
        return any(life.disk in ("old", "empty") for life in self.lives["m"])

    def lease_may_be_over(self, who, begin, end):
        """Whether the master may have ended a lease of `who` between two moments."""
        for life in self.lives["m"]:
            signs = [one for one in self.heard[who] if life.begin <= one[0] <= life.dead]
            lasts, nexts = [life.begin, *(at for at, _ in signs)], [*(until for _, until in signs), life.dead]
            for last, following in zip(lasts, nexts):
                if min(following, end) >= begin and min(following, end) - last >= self.lease - self.early:
                    return True
        return False

    def lease_is_over(self, who, at):
        """Whether the master must have ended the last lease of `who`: it was gone, and the master up for long enough."""
        if not self.lives[who] or any(life.begin <= at and life.dead > at - self.lease for life in self.lives[who]):
            return False
        last = max([end for _, end in self.heard[who] if end <= at] + [life.dead for life in self.lives[who] if life.dead <= at])
        return any(max(life.ready, last) + self.lease + self.late <= at <= life.dying for life in self.lives["m"])

    def may_have_lost(self, name, said, until):
        """Why an owner may not have a name any more at a moment, of which it was `said` that it has it."""
        who = said.owner
        if self.wants(who, name, said.end, until) != {"yes"}:
            return "it gave the name up"
        if any(life.orderly and life.dying <= until and life.dead >= said.begin for life in self.lives[who]):
            return "it left in order"
        if self.lease_may_be_over(who, said.begin, until):
            return "its lease was over"
        return None

    def is_forgotten(self, granted, said, until):
        """Whether nobody told a master that lost its disk: the owner was not there, or never heard that it had the name, nor was any
        node that was there when the name was granted, and so had stored that. Those that came later may have come when nobody was
        left to tell them."""
        lost = self.forgot(said.end, until)
        if not lost or self.was_up(said.owner, lost[0].begin, until) and self.was_told(granted):
            return False
        return lost[0].begin - granted.end < PUBLISHED or not self.witnesses(granted.end, until, but=(said.owner,))

    def was_told(self, granted):
        """Whether anybody was told of a grant: what is on the disk of a master that was killed it may have told nobody."""
        return any(one.version == granted.version and one.source != "disk" for one in self.said[granted.name])

    def met(self, who, until):
        """Whether the master had time to write down where a node is, in a run before."""
        met = [(at, life) for at, _ in self.heard[who] for life in self.lives["m"] if life.begin <= at <= life.dying]
        return any(at + ACQUAINTED <= life.dying < until for at, life in met)


def entries_of(event):
    """What an event says that names stand for."""
    kind, answer, who = event["kind"], event.get("answer"), event.get("who")
    if not answer:
        return
    begin, end = event["begin"], event["end"]
    if kind == "share" and answer.get("standing") == "certified" and answer["version"]:
        yield Said(begin, end, event["name"], who, answer["version"], answer["content"], "share")
    elif kind == "lookup" and answer.get("certified"):
        yield Said(begin, end, event["name"], answer["owner"], answer["version"], answer["content"], answer["source"])
    elif kind in ("listing", "disk"):
        for name, owner, version, content in answer:
            yield Said(begin, end, name, owner, version, content, "master" if kind == "listing" else "disk")
    elif kind == "ls":
        for name, entry in answer.items():
            if entry["standing"] == "certified" and entry["version"]:
                yield Said(begin, end, name, who, entry["version"], entry["content"], "ls")


def absences(history):
    """Each time that the master, or its disk, said that there is no such name; names that it was ever known to have."""
    for event in history.of("lookup"):
        if event["who"] == "m" and event["answer"] and event["answer"].get("none"):
            yield event, event["name"]
    for event in history.of("listing", "disk"):
        if event["answer"] is not None:
            listed = {name for name, *_ in event["answer"]}
            yield from ((event, name) for name in history.said if name not in listed)


# The rules. Each yields what breaks it.

def one_entry(history):
    for name, said in history.said.items():
        entries = collections.defaultdict(set)
        for one in said:
            entries[one.version].add((one.owner, one.content))
        for version, stands in entries.items():
            if len(stands) > 1:
                yield f"{name} at version {version} stands for {sorted(stands)}"


def one_owner(history):
    for name, said in history.said.items():
        grants, latest = {}, {}
        for one in said:
            if one.source != "ls":
                grants.setdefault(one.version, one)
            if one.source in ("master", "disk"):
                latest.setdefault(one.version, []).append(one)
        # Versions tell the order, unless the master's disk went back: then it is what was said first by whom it concerns.
        if history.went_back():
            order = [one for one in grants.values() if one.source != "dht"]
        else:
            order = [grants[version] for version in sorted(grants)]
        for before, after in zip(order, order[1:]):
            if before.owner == after.owner:
                continue
            known = [one for one in latest.get(before.version, []) if one.end <= after.begin]
            granted, before = before, (known or [before])[-1]
            if not history.may_have_lost(name, before, after.end) and not history.is_forgotten(granted, before, after.end):
                yield (f"{name} went from {before.owner} ({before.version}, {before.source}, {before.begin:.3f} to "
                       f"{before.end:.3f}) to {after.owner} ({after.version}, {after.source}, {after.begin:.3f} to {after.end:.3f}), "
                       f"and nothing ended its being {before.owner}'s")


def forward(history):
    for name, said in history.said.items():
        answers = [one for one in said if one.source in ("master", "disk")]
        bounds = [one for one in said if one.source in ("master", "disk", "share")]
        for later in answers:
            for earlier in bounds:
                if earlier.end < later.begin and earlier.version > later.version and not history.forgot(earlier.end, later.end):
                    yield (f"{name} went back from version {earlier.version} ({earlier.source}, {earlier.end:.3f}) to "
                           f"{later.version} ({later.source}, {later.begin:.3f})")
                    break


def acknowledged(history):
    for event, name in absences(history):
        known = [one for one in history.said[name] if one.source in ("master", "disk", "share") and one.end < event["begin"]]
        if not known:
            continue
        last = known[-1]
        lost = history.may_have_lost(name, last, event["end"]) or history.forgot(last.end, event["end"])
        if not lost:
            yield (f"{name} of {last.owner} ({last.version}, {last.source}, {last.end:.3f}) is not known to the master any more "
                   f"({event['kind']} at {event['begin']:.3f})")


def undead(history):
    for name, said in history.said.items():
        for one in said:
            if one.source not in ("master", "disk"):
                continue
            why = unwanted(history, name, one)
            if why:
                yield f"{name} is {one.owner}'s still ({one.version}, {one.source}, {one.begin:.3f} to {one.end:.3f}), but {why}"


def unwanted(history, name, one):
    """Why an owner cannot have a name of which the master said that it does, if so."""
    owner = one.owner
    if not history.intents.get((owner, name)):
        return "it never shared it"
    if one.source == "master" and history.lease_is_over(owner, one.begin):
        return "it is gone, and its lease is over"
    if history.wants(owner, name, one.begin, one.end) != {"no"}:
        return None
    why = history.intent(owner, name, one.begin).why
    if why is None:
        return "it had not shared it yet"
    if why["kind"] != "revoke" or not why["answer"] or "error" in why["answer"]:
        # Its disk forgot the name: the master hears of that when it comes back, or never; then by its lease.
        return None
    forgot = history.forgot(why["end"], one.end)
    if why["answer"]["acknowledged"] and not forgot:
        return f"that it gave it up was acknowledged at {why['end']:.3f}"
    if one.source == "disk" or why["end"] - why["begin"] > PATIENCE:
        return None
    # Told to the DHT by the owner, or, where the master lost its disk since, by the master.
    begin = why["begin"] - ACQUAINTED
    known = history.was_up(owner, begin, why["end"])
    if why["answer"]["acknowledged"]:
        known = known and history.was_up("m", begin, why["end"] + PUBLISHED) and forgot[0].begin - why["end"] > PUBLISHED
    if forgot and not all(life.disk == "old" and life.of > why["begin"] for life in forgot):
        # An old copy knows nodes of its own time.
        known = False
    heard = [who for who in history.witnesses(begin, one.end) if history.met(who, one.begin)]
    if known and heard:
        return f"it gave it up at {why['end']:.3f}, as {', '.join(heard)} heard"
    return None


def equal_files(history):
    shared = collections.defaultdict(set)
    for event in history.of("share"):
        shared[event["name"]].add(event["label"])
    for event in history.of("get", "file"):
        answer = event["answer"] or {}
        if "wrong" in answer:
            yield f"{event['name']}, downloaded by {event['who']} ({event['kind']} at {event['end']:.3f}): {answer['wrong']}"
        elif "label" in answer and answer["label"] not in shared[event["name"]]:
            yield f"{event['name']}, downloaded by {event['who']} at {event['end']:.3f}, is {answer['label']}, which was never shared so"


def whole_databases(history):
    for event in history.of("integrity"):
        if event["answer"] != "ok":
            yield f"{event['file']} of {event['who']} at {event['begin']:.3f}: {event['answer']}"


def settling(history):
    for event in history.of("settled"):
        if event["answer"]:
            yield f"not within {event['end'] - event['begin']:.1f} seconds: {event['answer']}"


def without_it(history):
    lost = history.went_back()
    for event in history.of("last"):
        answer, owner = event["answer"], event["owner"]
        found = answer.get("owner") if answer else None
        if owner and found != owner:
            yield f"{event['who']} is to find {event['name']} of {owner}, and says: {answer}"
        # That it ended something a master may have told nobody before its disk went back: then the DHT has what it ended.
        elif not owner and found and answer.get("certified") and not lost:
            yield f"{event['who']} finds {event['name']}, which nobody shares, as {found}'s"


def comes_back(history):
    for event in history.of("start"):
        if not event.get("answer", True):
            yield f"{event['who']} did not start at {event['begin']:.3f} with a disk that is {event['disk']}: {event['reason']}"


RULES = {"one entry": one_entry, "one owner": one_owner, "forward": forward, "acknowledged": acknowledged, "undead": undead,
         "equal files": equal_files, "whole databases": whole_databases, "settling": settling, "without it": without_it,
         "comes back": comes_back}


def violations(events):
    """What a history breaks: of each rule the first few cases."""
    history = History(events)
    return [Violation(rule, text) for rule, broken in RULES.items() for text in list(broken(history))[:5]]


def unsettled(history, now, shared, listed):
    """What is still to happen, or else wrong, when everything is up: by what each owner says that it shares (name to entry)
    and what the master lists (name to owner, version and content). `None` if all is well."""
    standings = collections.defaultdict(dict)
    for who, entries in shared.items():
        known = {name for owner, name in history.intents if owner == who}
        for name in known | set(entries):
            state = history.intent(who, name, now).state
            if state == "yes" and name not in entries:
                return f"{who} does not share {name} any more, although it was told to, and not to end it"
            if state == "no" and name in entries:
                return f"{who} shares {name}, although it was not told to, or to end it"
        for name, entry in entries.items():
            standings[name][who] = entry
    for name, owners in standings.items():
        certified = [who for who, entry in owners.items() if entry["standing"] == "certified"]
        if len(certified) != 1:
            said = {who: entry["standing"] for who, entry in owners.items()}
            return f"{name} has {len(certified)} certified owners: {said}"
        [owner] = certified
        entry = owners[owner]
        if listed.get(name) != (owner, entry["version"], entry["content"]):
            return f"{name} is {owner}'s at {entry['version']}, and the master lists {listed.get(name)}"
        for who, other in owners.items():
            if who != owner and (other["standing"], other.get("conflict_owner")) != ("conflict", owner):
                return f"{name} is {owner}'s, and {who} says {other}"
    surplus = set(listed) - set(standings)
    if surplus:
        name = min(surplus)
        return f"the master lists {name} of {listed[name][0]}, which nobody shares"
    return None
