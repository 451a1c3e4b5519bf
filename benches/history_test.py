"""Made-up histories: each rule of history.py lets pass what may happen, and finds what must not. `python3 benches/history_test.py`"""
import json, os, sys, unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import history, plans


class Story:
    """A history in the making: a master and three peers, up since the beginning."""
    def __init__(self):
        self.events = [{"kind": "settings", "begin": 0.0, "end": 0.0, "lease": 2.5, "ping": 0.4}]
        for who in ("m", "p0", "p1", "p2"):
            self.start(who, 0.0, "new")
        self.hear(0.2, 3.0)

    def note(self, kind, begin, end=None, **fields):
        self.events.append({"kind": kind, "begin": begin, "end": begin + 0.05 if end is None else end, **fields})
        return self

    def start(self, who, at, disk="same", of=None):
        return self.note("start", at, at + 0.1, who=who, disk=disk, of=of, answer=True)

    def kill(self, who, at):
        return self.note("kill", at, at + 0.01, who=who)

    def hear(self, begin, end, peers=("p0", "p1", "p2")):
        """The master says that these are alive, ten times a second."""
        for step in range(int((end - begin) * 10)):
            for who in peers:
                self.note("heard", begin + step / 10, begin + step / 10 + 0.001, who=who)
        return self

    def share(self, who, name, at, version, standing="certified"):
        answer = {"standing": standing, "version": version, "content": f"of {who}", "owner": None}
        return self.note("share", at, who=who, name=name, label=f"{who}/{name}/1", answer=answer)

    def revoke(self, who, name, at, acknowledged=True):
        return self.note("revoke", at, who=who, name=name, answer={"acknowledged": acknowledged})

    def found(self, name, at, owner, version, asker="p1", source="master"):
        answer = {"owner": owner, "version": version, "content": f"of {owner}", "certified": True, "source": source}
        return self.note("lookup", at, who=asker, name=name, answer=answer)

    def none(self, name, at, asker="m"):
        return self.note("lookup", at, who=asker, name=name, answer={"none": True})

    def disk(self, at, *rows):
        return self.note("disk", at, at + 0.01, who="m", answer=[[name, who, version, f"of {who}"] for name, who, version in rows])

    def rules(self):
        # As it comes from a file.
        return sorted({found.rule for found in history.violations(json.loads(json.dumps(self.events)))})


class Rules(unittest.TestCase):
    def kept(self, story):
        self.assertEqual(history.violations(story.events), [])

    def broken(self, story, *rules):
        self.assertEqual(story.rules(), sorted(rules))

    def test_a_quiet_history_breaks_nothing(self):
        self.kept(Story().share("p0", "a", 1, 10).found("a", 1.5, "p0", 10).revoke("p0", "a", 2).none("a", 2.5))

    def test_a_version_stands_for_one_entry(self):
        story = Story().share("p0", "a", 1, 10).revoke("p0", "a", 1.2).share("p1", "a", 1.5, 10)
        self.broken(story, "one entry")

    def test_a_name_is_handed_out_twice(self):
        self.broken(Story().share("p0", "a", 1, 10).share("p1", "a", 1.5, 11), "one owner")
        # By what others are told alone, too.
        self.broken(Story().share("p0", "a", 1, 10).share("p1", "a", 0.5, 0, "conflict").found("a", 2, "p1", 11), "one owner")

    def test_what_was_given_up_goes_to_others(self):
        self.kept(Story().share("p0", "a", 1, 10).revoke("p0", "a", 1.2).share("p1", "a", 1.5, 11))
        # A revoke of which nobody heard an answer may have happened, however late.
        story = Story().share("p0", "a", 1, 10).note("revoke", 1.2, who="p0", name="a", answer=None).share("p1", "a", 2.5, 11)
        self.kept(story)
        # One that was not begun has not.
        self.broken(Story().share("p0", "a", 1, 10).share("p1", "a", 1.5, 11).revoke("p0", "a", 1.7), "one owner")

    def test_a_lease_has_to_run_out_first(self):
        story = lambda at: Story().share("p0", "a", 3, 10).hear(3, 3.3).kill("p0", 3.3).hear(3.3, 8, ("p1", "p2")).share("p1", "a", at, 11)
        self.broken(story(4.5), "one owner")
        self.kept(story(6))

    def test_a_lease_begins_anew_with_the_master(self):
        def story(at):
            made = Story().share("p0", "a", 3, 10).hear(3, 3.3).kill("p0", 3.3).kill("m", 4).start("m", 5)
            return made.hear(5.2, 10, ("p1", "p2")).share("p1", "a", at, 11)
        self.broken(story(6.4), "one owner")
        self.kept(story(8))

    def test_time_in_which_this_machine_stood_still_is_nobodys_fault(self):
        story = Story().share("p0", "a", 3, 10).hear(3, 3.3).kill("p0", 3.3).hear(3.3, 8, ("p1", "p2")).share("p1", "a", 4.5, 11)
        self.kept(story.note("stall", 0.0, seconds=0.5))

    def test_who_leaves_in_order_has_nothing_any_more(self):
        self.kept(Story().share("p0", "a", 1, 10).note("stop", 1.5, 1.7, who="p0").share("p1", "a", 1.8, 11))
        self.kept(Story().share("p0", "a", 1, 10).note("stop", 1.5, 1.7, who="p0").none("a", 1.8))

    def test_a_master_without_its_disk_gives_away_only_what_nobody_told_it(self):
        def story(owner_dies, others_die, granted=0.5):
            made = Story().share("p0", "a", granted, 10)
            for who in ["m", *(["p0"] if owner_dies else []), *(["p2", "p1"] if others_die else [])]:
                made.kill(who, 3)
            made.start("m", 3.5, "empty")
            if others_die:
                made.start("p1", 3.6)
            return made.hear(3.7, 4.5, ("p1",)).share("p1", "a", 4, 99)
        self.broken(story(False, False), "one owner")
        self.broken(story(False, True), "one owner")
        self.broken(story(True, False), "one owner")
        self.kept(story(True, True))
        self.kept(story(True, False, granted=2.8))
        # Who knew it was gone before the one who is there could hear of it.
        late = Story().share("p0", "a", 0.5, 10).kill("p2", 2).kill("p0", 2.5).start("p2", 2.6).kill("m", 2.8).kill("p1", 2.8)
        self.kept(late.disk(2.8, ("a", "p0", 10)).start("m", 6, "empty").hear(6.2, 7, ("p2",)).share("p2", "a", 6.5, 99))

    def test_a_grant_that_nobody_was_told_of_is_forgotten_with_the_disk(self):
        def story(granted=2.8):
            answer = {"standing": "conflict", "version": 0, "content": "of p0", "owner": "p1"}
            made = Story().share("p0", "a", 2, 0, "conflict").note("share", granted - 0.1, 4, who="p0", name="a", label="p0/a/1", answer=answer)
            return made.kill("m", granted).disk(granted, ("a", "p0", 10)).start("m", 3, "empty").hear(3.2, 4.5)
        self.kept(story().share("p1", "a", 3.5, 99))
        self.broken(story().found("a", 2.7, "p0", 10).share("p1", "a", 3.5, 99), "one owner")

    def test_answers_of_the_master_go_forward(self):
        story = lambda: Story().share("p0", "a", 1, 10).share("p0", "a", 1.5, 12)
        self.broken(story().found("a", 2, "p0", 10), "forward")
        self.broken(story().disk(2, ("a", "p0", 10)), "forward")
        self.kept(story().found("a", 2, "p0", 10, source="dht"))
        # The question was under way when the name changed.
        self.kept(story().note("lookup", 1.45, 1.6, who="p1", name="a", answer={
            "owner": "p0", "version": 10, "content": "of p0", "certified": True, "source": "master"}))
        # An older disk was put back.
        self.kept(story().kill("m", 2).start("m", 2.2, "old", of=1.2).found("a", 2.5, "p0", 10))
        self.broken(story().kill("m", 2).start("m", 2.2, "old", of=1.7).found("a", 2.5, "p0", 10), "forward")

    def test_what_was_acknowledged_before_the_commit_is_found_missing(self):
        story = lambda: Story().share("p0", "a", 2.5, 10).kill("m", 2.6).kill("p0", 2.6)
        self.broken(story().disk(2.6), "acknowledged")
        self.kept(story().disk(2.6, ("a", "p0", 10)))
        self.broken(story().start("m", 2.7).none("a", 2.9), "acknowledged")
        # Two leases later nobody has to know it any more.
        self.kept(story().start("m", 2.7).hear(2.8, 8, ("p1", "p2")).none("a", 7))
        # Without an answer nobody was promised anything.
        unanswered = Story().note("share", 2.5, 2.61, who="p0", name="a", label="p0/a/1", answer=None)
        self.kept(unanswered.kill("m", 2.6).kill("p0", 2.6).disk(2.6))

    def test_a_listing_without_a_name_is_an_absence(self):
        story = Story().share("p0", "a", 1, 10).share("p0", "b", 1.1, 11)
        self.broken(story.note("listing", 2, who="m", answer=[["a", "p0", 10, "of p0"]]), "acknowledged")

    def test_another_nodes_not_knowing_a_name_is_no_absence(self):
        self.kept(Story().share("p0", "a", 1, 10).none("a", 1.5, asker="p1"))

    def test_a_revoke_that_was_acknowledged_holds_whatever_happens(self):
        story = lambda: Story().share("p0", "a", 1, 10).revoke("p0", "a", 2)
        self.broken(story().found("a", 2.1, "p0", 10), "undead")
        self.broken(story().kill("m", 2.06).kill("p0", 2.06).disk(2.06, ("a", "p0", 10)), "undead")
        self.broken(story().kill("m", 2.06).kill("p0", 2.06).start("m", 2.2).found("a", 2.5, "p0", 10), "undead")
        self.kept(story().share("p0", "a", 2.1, 13).found("a", 2.2, "p0", 13))

    def test_what_was_given_up_without_the_master_is_not_confirmed_by_it(self):
        def story(witness, owner=True):
            made = Story().share("p0", "a", 1, 10).kill("m", 3).revoke("p0", "a", 3.5, acknowledged=False)
            if owner:
                made.kill("p0", 3.8)
            if not witness:
                made.kill("p1", 3.9).kill("p2", 3.9).start("p1", 4)
            return made.start("m", 4.2)
        self.broken(story(True).found("a", 4.4, "p0", 10), "undead")
        self.broken(story(True, owner=False).found("a", 4.4, "p0", 10), "undead")
        self.kept(story(True).none("a", 4.4))
        # Nobody who is up has heard of it, so the lease has to run out.
        self.kept(story(False).found("a", 4.4, "p0", 10))
        # Its own disk may have it, until it asks.
        self.kept(story(True).kill("m", 4.6).disk(4.6, ("a", "p0", 10)))

    def test_a_revoke_that_took_too_long_told_nobody(self):
        story = Story().share("p0", "a", 1, 10).kill("m", 3)
        story.note("revoke", 3.2, 8.3, who="p0", name="a", answer={"acknowledged": False})
        self.kept(story.kill("p0", 8.5).start("m", 9).found("a", 9.2, "p0", 10))

    def test_a_name_that_was_never_shared(self):
        self.broken(Story().found("a", 1, "p0", 10), "undead")
        self.broken(Story().share("p0", "a", 2, 10).found("a", 1, "p0", 9), "undead")

    def test_a_peer_that_is_gone_holds_nothing_once_its_lease_is_over(self):
        story = lambda: Story().share("p0", "a", 2.9, 10).kill("p0", 3.2).hear(3.2, 12, ("p1", "p2"))
        self.kept(story().found("a", 5, "p0", 10))
        self.broken(story().found("a", 11, "p0", 10), "undead")

    def test_downloads_are_what_was_shared(self):
        story = lambda kind, answer: Story().share("p0", "a", 1, 10).note(kind, 2, who="p1", name="a", answer=answer)
        for kind in ("get", "file"):
            self.kept(story(kind, {"label": "p0/a/1"}))
            self.broken(story(kind, {"label": "p0/b/1"}), "equal files")
            self.broken(story(kind, {"wrong": "3 bytes"}), "equal files")
        self.kept(story("get", None))
        self.kept(story("get", {"error": 5}))

    def test_databases_that_start_and_all_that_settles(self):
        self.broken(Story().note("integrity", 1, who="m", file="index.db", answer="row 3 missing from index"), "whole databases")
        self.kept(Story().note("integrity", 1, who="m", file="index.db", answer="ok"))
        self.broken(Story().note("settled", 1, answer="p0 and the master do not agree"), "settling")
        self.broken(Story().note("start", 1, who="p0", disk="same", of=None, answer=False, reason="exit code 7"), "comes back")

    def test_what_is_found_without_the_master(self):
        story = lambda owner, answer: Story().note("last", 5, who="p1", name="a", owner=owner, answer=answer)
        found = {"owner": "p0", "certified": True, "version": 1, "content": "x"}
        self.kept(story("p0", found))
        self.broken(story("p0", {"none": True}), "without it")
        self.broken(story(None, found), "without it")
        self.kept(story(None, {"none": True}))
        self.kept(story(None, found).kill("m", 3).start("m", 3.5, "old", of=1))


class Settling(unittest.TestCase):
    def setUp(self):
        self.story = Story().share("p0", "a", 1, 10).share("p1", "a", 1.2, 0, "conflict")
        self.shared = {"p0": {"a": {"standing": "certified", "version": 10, "content": "of p0"}},
                       "p1": {"a": {"standing": "conflict", "version": 0, "content": "of p1", "conflict_owner": "p0"}}}
        self.listed = {"a": ("p0", 10, "of p0")}

    def unsettled(self):
        return history.unsettled(history.History(self.story.events), 9.0, self.shared, self.listed)

    def test_all_agree(self):
        self.assertIsNone(self.unsettled())

    def test_owners_whose_disks_forgot_or_kept_what_they_were_told(self):
        del self.shared["p1"]["a"]
        self.assertIn("p1 does not share a", self.unsettled())
        self.story.revoke("p1", "a", 2)
        self.assertIsNone(self.unsettled())
        self.shared["p1"]["a"] = {"standing": "conflict", "version": 0, "content": "of p1", "conflict_owner": "p0"}
        self.assertIn("p1 shares a", self.unsettled())
        # An earlier copy of its disk was put back, in which it still did.
        self.story.kill("p1", 3).start("p1", 3.2, "old", of=1.7)
        self.assertIsNone(self.unsettled())

    def test_what_had_no_answer_may_be_or_not(self):
        self.story.note("revoke", 2, who="p1", name="a", answer=None)
        self.assertIsNone(self.unsettled())
        del self.shared["p1"]["a"]
        self.assertIsNone(self.unsettled())

    def test_a_revoke_that_is_refused_ends_nothing(self):
        self.story.note("revoke", 2, who="p1", name="a", answer={"error": "not_found"})
        self.assertIsNone(self.unsettled())
        del self.shared["p1"]["a"]
        self.assertIn("p1 does not share a", self.unsettled())

    def test_two_owners_none_or_another_than_the_master_says(self):
        self.shared["p1"]["a"]["standing"] = "certified"
        self.assertIn("2 certified owners", self.unsettled())
        self.shared["p1"]["a"]["standing"] = self.shared["p0"]["a"]["standing"] = "conflict"
        self.assertIn("0 certified owners", self.unsettled())
        self.setUp()
        self.listed = {}
        self.assertIn("lists None", self.unsettled())
        self.listed = {"a": ("p0", 9, "of p0")}
        self.assertIn("lists", self.unsettled())
        self.setUp()
        self.shared["p1"]["a"]["conflict_owner"] = "p2"
        self.assertIn("p1 says", self.unsettled())

    def test_a_name_that_nobody_shares(self):
        self.listed["b"] = ("p2", 11, "of p2")
        self.assertIn("which nobody shares", self.unsettled())


class Plans(unittest.TestCase):
    def test_a_seed_makes_one_plan_and_all_kinds_come(self):
        made = [plans.plan(seed, 2.5) for seed in range(200)]
        self.assertEqual(json.dumps(made), json.dumps([plans.plan(seed, 2.5) for seed in range(200)]))
        self.assertEqual({plan["kind"] for plan in made[:len(plans.KINDS)]}, set(plans.KINDS))
        self.assertGreater(len({json.dumps(plan["steps"]) for plan in made}), 190)


if __name__ == "__main__":
    unittest.main()
