//! When what is due: at first, again, after a failure, and when the master is lost.

use super::*;

/// First pause before a record that no node stored is published again.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// What is repeated within this part of the interval goes together, if there is not too much of it.
const SOON: u32 = 5;
/// After so long a master has published what it granted, and a second later for each [`MASTER_RATE`] records.
const MASTER_TIME: Duration = Duration::from_secs(60);
/// Records that a master publishes in a second, as others count on.
const MASTER_RATE: usize = 500;
/// For how long a master that was lost a while ago is to be lost before what it granted meanwhile is due.
const LOST_AGAIN: Duration = Duration::from_secs(60);
/// How often what somebody else repeats is tried again for having too few copies.
const ATTEMPTS_OF_OTHERS: u32 = 3;
/// And how often if nobody took it: about a quarter of an hour. Then it is forgotten, since whoever repeats it does.
const ATTEMPTS_IN_VAIN: u32 = 8;

impl Publication {
    /// Whether this node has not tried to publish it yet, since the master does.
    fn is_untried(&self) -> bool {
        !self.once && self.copies == 0 && self.failures == 0
    }
}

impl Publications {
    /// When a certificate is due that this node was just given: the master publishes what it grants, and this is for the time after.
    pub(super) fn after_the_master(&self, key: &RecordKey, now: Instant) -> Instant {
        now + self.wait() - spread(self.interval, key) / 2
    }

    fn wait(&self) -> Duration {
        self.interval / 2 + self.interval * 2 / 5 * u32::from(self.turn) / 256
    }

    /// Whether no master publishes anything. When that begins, what it may not have come to publish is due at once, and
    /// all the rest earlier than it would be: where a master is lost, others may be. A master that is lost again and
    /// again counts only once it has been lost for a while. Otherwise what was granted in between would be published
    /// each time, and an overloaded network would stay so.
    pub(crate) fn set_masterless(&mut self, masterless: bool, now: Instant) {
        if !masterless {
            self.hurry = None;
        } else if !self.masterless {
            let again = self.hurried.is_some_and(|at| now < at + self.interval / 4);
            let at = if again { now + LOST_AGAIN.min(self.interval / 4) } else { now };
            self.hurry = Some((at, now));
        }
        self.masterless = masterless;
        if let Some((_, lost)) = self.hurry.take_if(|(at, _)| *at <= now) {
            self.hurried = Some(now);
            self.hurry(lost, now);
        }
    }

    /// What was published, or was to be published by the master long ago, is not due at once.
    fn hurry(&mut self, lost: Instant, now: Instant) {
        let untried = self.items.values().filter(|item| item.is_untried()).count();
        let backlog = MASTER_TIME + Duration::from_secs((untried / MASTER_RATE) as u64);
        let wait = self.wait();
        for (key, item) in &mut self.items {
            let spread = spread(self.interval, key);
            let is_young = item.is_untried() && lost + wait < item.due + spread / 2 + backlog;
            let due = if is_young { now } else { now + self.interval / 2 - spread };
            if due < item.due {
                self.due.remove(&(item.due, *key));
                item.due = due;
                self.due.insert((due, *key));
            }
        }
    }

    /// What is due, at most `most` of it; and with it what is due soon and has not failed: questions and connections cost most, and
    /// records share them.
    pub(crate) fn due(&self, now: Instant, most: usize) -> Vec<(RecordKey, What)> {
        if self.due.first().is_none_or(|(at, _)| *at > now) {
            return Vec::new();
        }
        let soon = self.due.iter().take_while(|(at, _)| *at <= now + self.interval / SOON);
        let items = soon.filter_map(|(at, key)| self.items.get(key).map(|item| (at, key, item)));
        let due = items.filter(|(at, _, item)| **at <= now || item.failures == 0);
        due.take(most).map(|(_, key, item)| (*key, item.what.clone())).collect()
    }

    /// What was due is stored by `stored` of `asked` nodes, this one included. A withdrawal is done once every node
    /// took it: each that still says it leads others astray. What nobody else was asked to store, because this node
    /// knows nobody yet, is here and tried again soon. So is what fewer than half of those asked took: they were too
    /// busy, or are gone.
    pub(crate) fn on_published(&mut self, key: &RecordKey, what: &What, stored: usize, asked: usize, now: Instant) {
        let copies = if *what == What::Withdraw && stored < asked { 0 } else { stored };
        let spread = spread(self.interval, key);
        let Some(item) = self.items.get_mut(key) else { return };
        if item.what != *what {
            // Something newer came meanwhile, and is due.
            return;
        }
        let over = item.what == What::Withdraw && item.failures + 1 >= WITHDRAWAL_ATTEMPTS;
        let few = item.what != What::Withdraw && copies * 2 < asked;
        // What somebody else repeats is not tried for long.
        let in_vain = item.failures >= ATTEMPTS_IN_VAIN;
        if item.once && (copies > 0 && (!few || item.failures >= ATTEMPTS_OF_OTHERS) || in_vain || over) {
            self.remove(key);
            return;
        }
        self.due.remove(&(item.due, *key));
        if item.copies == 0 {
            self.changed = Some(now);
        }
        self.published -= usize::from(item.copies > 0);
        self.published += usize::from(copies > 0);
        self.refused -= usize::from(std::mem::take(&mut item.refused));
        item.copies = u32::try_from(copies).unwrap_or(u32::MAX);
        item.due = if copies > 0 && asked > 1 && !few {
            item.failures = 0;
            now + self.interval - spread
        } else {
            item.failures += 1;
            now + (RETRY * (1 << item.failures.min(12))).min(self.interval)
        };
        self.due.insert((item.due, *key));
    }

    /// No node that was asked had room for what was due: that changes slowly, so it is tried again in a part of the interval.
    pub(crate) fn on_no_room(&mut self, key: &RecordKey, what: &What, now: Instant) {
        self.on_published(key, what, 0, 0, now);
        let spread = spread(self.interval, key);
        let Some(item) = self.items.get_mut(key).filter(|item| item.what == *what && !item.once) else { return };
        self.due.remove(&(item.due, *key));
        item.due = now + self.interval / 4 + spread;
        self.due.insert((item.due, *key));
        item.refused = true;
        self.refused += 1;
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.due.first().map(|(at, _)| *at);
        // What a lost master may not have published.
        let hurry = self.hurry.map(|(at, _)| at);
        [due, hurry].into_iter().flatten().min()
    }
}

/// A part of a fifth of the interval, so that what came at once does not come at once for ever.
fn spread(interval: Duration, key: &RecordKey) -> Duration {
    interval * u32::from(key.as_bytes()[0]) / (SOON * 256)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
pub(super) mod tests {
    use super::*;

    fn key(number: u16) -> RecordKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        RecordKey::from_slice(&bytes).unwrap()
    }

    /// Certificates of these names, as the master grants them.
    pub(in crate::state::publish) fn certificates(count: u16) -> Vec<(RecordKey, What)> {
        let (master, network) =
            (swarmdex_protocols::Keypair::generate_ed25519(), swarmdex_protocols::Network::default());
        let owner = PeerId::random();
        let certificate = |number: u16| {
            let entry = swarmdex_protocols::Entry {
                name: swarmdex_protocols::Name::parse(&number.to_string()).unwrap(),
                content: swarmdex_protocols::ContentId::of(b"x"),
                size: 1,
                owner,
                version: swarmdex_protocols::Version(1),
                attributes: None,
            };
            let certificate = swarmdex_protocols::Certificate::sign(entry, &network, &master, 1).unwrap();
            // Spread over all first bytes.
            (key(number * (u16::MAX / count)), statement_of(Statement::Certificate(certificate)))
        };
        (0..count).map(certificate).collect()
    }

    #[test]
    fn what_is_repeated_soon_goes_along_and_what_failed_waits_for_its_turn() {
        let (now, interval) = (Instant::now(), Duration::from_secs(1000));
        let mut publications = Publications::new(interval);
        let keys: Vec<_> = (0..64).map(|number| key(number * 1024)).collect();
        keys.iter().for_each(|key| publications.want(*key, Some(What::Provide), now));
        assert_eq!(publications.due(now, 100).len(), 64);
        keys.iter().for_each(|key| publications.on_published(key, &What::Provide, 20, 20, now));
        let due = publications.poll_timeout().unwrap();
        assert!(publications.due(due - Duration::from_millis(1), 100).is_empty(), "nothing is due");
        assert_eq!(publications.due(due, 100).len(), 64, "all of them in one go");
        assert_eq!(publications.due(due, 10).len(), 10);
        keys.iter().for_each(|key| publications.on_published(key, &What::Provide, 20, 20, due));
        // One that no node took is tried after a while, and not whenever something else is due.
        publications.on_published(&keys[0], &What::Provide, 0, 20, due);
        publications.want(key(7), Some(What::Provide), due);
        assert_eq!(publications.due(due, 100), [(key(7), What::Provide)]);
    }

    #[test]
    fn a_master_that_is_lost_again_and_again_has_nothing_published_again_and_again() {
        let (granted, interval) = (Instant::now(), Duration::from_secs(1200));
        let mut publications = Publications::new(interval);
        let certificates = certificates(20);
        certificates.iter().for_each(|(key, what)| publications.want(*key, Some(what.clone()), granted));
        assert!(publications.due(granted, 100).is_empty(), "the master publishes them");
        // It may not have come to it.
        let mut now = granted + MASTER_TIME / 2;
        publications.set_masterless(true, now);
        assert_eq!(publications.due(now, 100).len(), 20);
        certificates.iter().for_each(|(key, what)| publications.on_published(key, what, 20, 20, now));
        let mut published = 0;
        for _ in 0..120 {
            now += Duration::from_secs(10);
            publications.set_masterless(false, now);
            publications.set_masterless(true, now);
            for (key, what) in publications.due(now, 100) {
                published += 1;
                publications.on_published(&key, &what, 20, 20, now);
            }
        }
        // In an interval: earlier than without the losses, and not more than three times.
        assert!((20..=60).contains(&published), "{published}");
    }

    #[test]
    fn what_the_master_published_first_goes_together_when_it_is_due() {
        let (granted, interval) = (Instant::now(), Duration::from_secs(1200));
        let mut publications = Publications::new(interval);
        certificates(20).into_iter().for_each(|(key, what)| publications.want(key, Some(what), granted));
        let due = publications.poll_timeout().unwrap();
        assert!(due > granted + interval / SOON, "what is new does not take them along");
        assert_eq!(publications.due(due, 100).len(), 20);
    }

    #[test]
    fn what_the_master_had_time_to_publish_is_not_due_when_it_is_lost() {
        let (granted, interval) = (Instant::now(), Duration::from_secs(1200));
        let lost = |count: u16, after: Duration| {
            let mut publications = Publications::new(interval);
            certificates(count).into_iter().for_each(|(key, what)| publications.want(key, Some(what), granted));
            publications.set_masterless(true, granted + after);
            let due = publications.due(granted + after, usize::MAX).len();
            (due, publications.poll_timeout().unwrap())
        };
        assert_eq!(lost(20, MASTER_TIME - Duration::from_secs(1)).0, 20);
        let (due, first) = lost(20, MASTER_TIME + Duration::from_secs(1));
        assert!(due == 0 && first <= granted + interval / 2);
        // Of very many it takes longer.
        let count = 10 * MASTER_RATE as u16;
        assert_eq!(lost(count, MASTER_TIME + Duration::from_secs(9)).0, usize::from(count));
        assert_eq!(lost(count, MASTER_TIME + Duration::from_secs(11)).0, 0);
    }

    #[test]
    fn what_is_granted_between_two_losses_waits_until_the_second_lasts() {
        let (granted, interval, second) = (Instant::now(), Duration::from_secs(1200), Duration::from_secs(1));
        let mut publications = Publications::new(interval);
        publications.set_masterless(true, granted);
        publications.set_masterless(false, granted + second);
        certificates(20).into_iter().for_each(|(key, what)| publications.want(key, Some(what), granted + second));
        publications.set_masterless(true, granted + 2 * second);
        assert!(publications.due(granted + 2 * second, 100).is_empty());
        // It comes back, and is lost for good.
        publications.set_masterless(false, granted + 20 * second);
        publications.set_masterless(true, granted + 30 * second);
        let at = publications.poll_timeout().unwrap();
        assert_eq!(at, granted + 30 * second + LOST_AGAIN);
        publications.set_masterless(true, at);
        assert_eq!(publications.due(at, 100).len(), 20, "the master may not have come to it before");
    }

    #[test]
    fn nodes_that_came_at_once_do_not_publish_at_once() {
        let (granted, interval) = (Instant::now(), Duration::from_secs(1200));
        let first = |turn: u8| {
            let mut publications = Publications::new(interval).with_turn(turn);
            certificates(20).into_iter().for_each(|(key, what)| publications.want(key, Some(what), granted));
            publications.poll_timeout().unwrap()
        };
        assert!(first(0) >= granted + interval * 2 / 5);
        assert!(first(255) >= first(0) + interval * 3 / 8 && first(255) <= granted + interval);
    }
}
