//! Who can transcode here, and who has which session: pure, a set keyed by id.
//!
//! Walk 1, step 6. Our own pool is one member among the others, [`LOCAL`]. What a member carries is never stored
//! twice: it is counted from the sessions, so nothing can be left over when one goes.
//!
//! *Source:* livepeer-wire §8, §12 rows 2, 8.
use std::collections::BTreeMap;
use std::time::Duration;

use livepeer::capability::{CapabilitySet, version_satisfies};

use super::health::{Health, Outcome, Standing};

/// A member's number; never used twice.
pub type MemberId = u64;
/// Our own pool.
pub const LOCAL: MemberId = 0;

/// Sessions remembered; beyond that the one used longest ago is forgotten.
const SESSIONS: usize = 8192;
/// How much of its old speed a member keeps with each result.
const INERTIA: f64 = 0.8;

/// A member: our pool, or an attached transcoder.
#[derive(Debug, Clone)]
pub struct Member {
    /// Sessions it takes at the same time.
    pub capacity: usize,
    /// What it can do.
    pub can: CapabilitySet,
    /// Its version.
    pub version: String,
    health: Health,
    /// Encoded pixels per second of all its sessions together, as measured.
    speed: Option<f64>,
    /// Segments it has in hand.
    in_hand: usize,
    /// Segments it did right.
    pub done: u64,
    /// Segments it failed.
    pub failed: u64,
}

/// Who has a session.
#[derive(Debug, Clone)]
struct Binding {
    member: MemberId,
    /// Encoded pixels per second of content.
    rate: f64,
    last_used: Duration,
}

/// What is known of a session that needs a member.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The session.
    pub session: &'a str,
    /// Capabilities it needs.
    pub needs: &'a CapabilitySet,
    /// The least version, or empty.
    pub min_version: &'a str,
    /// Encoded pixels per second of content it will cause, by its profiles.
    pub rate: f64,
    /// Members that were tried in vain.
    pub tried: &'a [MemberId],
}

/// Why there is nobody for a segment, in the network's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nobody {
    /// All are full, benched, or tried.
    #[error("no transcoders available")]
    Available,
    /// None of them can do it.
    #[error("no transcoders can provide requested capabilities")]
    Capable,
}

/// Who got a session, and who had it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Who has it now.
    pub member: MemberId,
    /// Who had it, if that was somebody else.
    pub before: Option<MemberId>,
}

/// The members and their sessions.
#[derive(Debug, Default)]
pub struct Registry {
    members: BTreeMap<MemberId, Member>,
    sessions: BTreeMap<String, Binding>,
    last: MemberId,
}

impl Registry {
    /// Adds an attached transcoder.
    pub fn add(&mut self, capacity: usize, can: CapabilitySet, version: String) -> MemberId {
        self.last += 1;
        self.members.insert(self.last, Member::new(capacity, can, version));
        self.last
    }

    /// Says how large our own pool is and what it can do; a pool without room is no member.
    pub fn set_local(&mut self, capacity: usize, can: CapabilitySet, version: &str) {
        if capacity == 0 {
            return self.remove(LOCAL);
        }
        let member = self.members.entry(LOCAL).or_insert_with(|| Member::new(0, can.clone(), version.to_owned()));
        (member.capacity, member.can) = (capacity, can);
    }

    /// Removes a member; its sessions find another one with their next segment. Others notice nothing.
    pub fn remove(&mut self, id: MemberId) {
        self.members.remove(&id);
        self.sessions.retain(|_, binding| binding.member != id);
    }

    /// The member for a session's next segment: the one that has it, while that is well; else the least loaded of
    /// those that can do it, an attached one before our own pool.
    ///
    /// # Errors
    /// [`Nobody`]; a session's binding is then unchanged.
    pub fn choose(&mut self, wanted: &Wanted<'_>, now: Duration) -> Result<Chosen, Nobody> {
        let before = self.sessions.get(wanted.session).map(|binding| binding.member);
        if let Some(member) = before.filter(|member| self.may_keep(*member, wanted, now)) {
            self.bind(wanted, member, now);
            return Ok(Chosen { member, before: None });
        }
        let able: Vec<_> = self.members.iter().filter(|(_, member)| member.can_do(wanted)).collect();
        if able.is_empty() {
            return Err(if self.members.is_empty() { Nobody::Available } else { Nobody::Capable });
        }
        let roomy = able.into_iter().filter(|(id, member)| {
            let room = match member.health.standing(now) {
                Standing::Fit => member.capacity,
                Standing::Probation => 1,
                Standing::Benched => 0,
            };
            // Our own pool knows itself when it is full; it is the last resort.
            !wanted.tried.contains(id) && (**id == LOCAL || self.load_of(**id).0 < room)
        });
        // An overloaded transcoder comes after our own pool, any other one before it.
        let rank = |id: MemberId, load: f64| (load > 1.0, id == LOCAL);
        let best = roomy
            .map(|(id, member)| (*id, self.load_with(*id, member, wanted.rate)))
            .min_by(|(a, one), (b, two)| rank(*a, *one).cmp(&rank(*b, *two)).then(one.total_cmp(two)));
        let (member, _) = best.ok_or(Nobody::Available)?;
        self.bind(wanted, member, now);
        Ok(Chosen { member, before: before.filter(|before| *before != member) })
    }

    /// Is there anybody else this could be given to?
    #[must_use]
    pub fn has_other(&self, wanted: &Wanted<'_>, than: MemberId, now: Duration) -> bool {
        self.members.iter().any(|(id, member)| {
            *id != than
                && !wanted.tried.contains(id)
                && member.can_do(wanted)
                && (*id == LOCAL || self.load_of(*id).0 < member.capacity)
                && member.health.standing(now) != Standing::Benched
        })
    }

    /// A segment goes to a member; how many it has in hand now.
    pub fn begin(&mut self, id: MemberId) -> usize {
        self.members.get_mut(&id).map_or(1, |member| {
            member.in_hand += 1;
            member.in_hand
        })
    }

    /// A segment is no longer in a member's hands, for whatever reason.
    pub fn end(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.in_hand = member.in_hand.saturating_sub(1);
        }
    }

    /// A segment came back right. `beside` segments were in the same hands, this one included.
    pub fn succeeded(&mut self, id: MemberId, session: &str, work: Work, beside: usize, now: Duration) {
        let rate = work.pixels / work.content.as_secs_f64().max(0.1);
        if let Some(binding) = self.sessions.get_mut(session).filter(|binding| binding.member == id) {
            binding.rate = rate;
        }
        let Some(member) = self.members.get_mut(&id) else { return };
        let beside = f64::from(u32::try_from(beside.max(1)).unwrap_or(u32::MAX));
        let speed = beside * work.pixels / work.took.as_secs_f64().max(0.001);
        member.speed = Some(member.speed.map_or(speed, |old| old * INERTIA + speed * (1.0 - INERTIA)));
        member.done += 1;
        // Our own pool minds itself.
        if id != LOCAL {
            member.health.note(Outcome::of_result(work.took, work.content), now);
        }
    }

    /// A member failed a segment; its session is free to go elsewhere.
    pub fn failed(&mut self, id: MemberId, session: &str, now: Duration) {
        if let Some(member) = self.members.get_mut(&id) {
            member.failed += 1;
            if id != LOCAL {
                member.health.note(Outcome::Failed, now);
            }
        }
        if self.sessions.get(session).is_some_and(|binding| binding.member == id) {
            self.sessions.remove(session);
        }
    }

    /// A session belongs to this member, whoever was asked last.
    pub fn rebind(&mut self, session: &str, member: MemberId, rate: f64, now: Duration) {
        let bound = self.sessions.get(session).is_some_and(|binding| binding.member == member);
        if !bound && self.members.contains_key(&member) {
            self.sessions.insert(session.to_owned(), Binding { member, rate, last_used: now });
        }
    }

    /// Forgets a session; who had it.
    pub fn forget(&mut self, session: &str) -> Option<MemberId> {
        self.sessions.remove(session).map(|binding| binding.member)
    }

    /// Sessions that the attached transcoders take together, and have now.
    #[must_use]
    pub fn attached(&self) -> (usize, usize) {
        let total = self.others().map(|(_, member)| member.capacity).fold(0, usize::saturating_add);
        (total, self.sessions.values().filter(|binding| binding.member != LOCAL).count())
    }

    /// What at least one of the attached transcoders can do.
    #[must_use]
    pub fn abilities(&self) -> CapabilitySet {
        self.others().flat_map(|(_, member)| member.can.iter()).collect()
    }

    /// The attached transcoders, each with its sessions and load.
    pub fn others(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.members.iter().filter(|(id, _)| **id != LOCAL).map(|(id, member)| (*id, member))
    }

    /// A member's sessions now, its load (1 is full), and where it stands.
    #[must_use]
    pub fn state_of(&self, id: MemberId, now: Duration) -> Option<(usize, f64, Standing)> {
        let member = self.members.get(&id)?;
        Some((self.load_of(id).0, self.load_with(id, member, 0.0), member.health.standing(now)))
    }

    fn may_keep(&self, id: MemberId, wanted: &Wanted<'_>, now: Duration) -> bool {
        self.members.get(&id).is_some_and(|member| {
            member.can_do(wanted) && member.health.standing(now) != Standing::Benched && !wanted.tried.contains(&id)
        })
    }

    fn bind(&mut self, wanted: &Wanted<'_>, member: MemberId, now: Duration) {
        let rate = self.sessions.get(wanted.session).map_or(wanted.rate, |binding| binding.rate);
        self.sessions.insert(wanted.session.to_owned(), Binding { member, rate, last_used: now });
        if self.sessions.len() > SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, binding)| binding.last_used);
            if let Some(oldest) = oldest.map(|(session, _)| session.clone()) {
                self.sessions.remove(&oldest);
            }
        }
    }

    /// A member's sessions and their pixel rate.
    fn load_of(&self, id: MemberId) -> (usize, f64) {
        let own = self.sessions.values().filter(|binding| binding.member == id);
        own.fold((0, 0.0), |(count, rate), binding| (count + 1, rate + binding.rate))
    }

    /// What a member's load would be with so much more: pixel rate over measured speed, or while that is not known,
    /// sessions over capacity.
    fn load_with(&self, id: MemberId, member: &Member, more: f64) -> f64 {
        let (count, rate) = self.load_of(id);
        let float = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        match member.speed {
            Some(speed) => (rate + more) / speed.max(1.0),
            None => (float(count) + if more > 0.0 { 1.0 } else { 0.0 }) / float(member.capacity.max(1)),
        }
    }
}

/// What a segment was.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Encoded pixels.
    pub pixels: f64,
    /// Length of the content.
    pub content: Duration,
    /// From the order to the result.
    pub took: Duration,
}

impl Member {
    fn new(capacity: usize, can: CapabilitySet, version: String) -> Self {
        let health = Health::default();
        Self { capacity, can, version, health, speed: None, in_hand: 0, done: 0, failed: 0 }
    }

    fn can_do(&self, wanted: &Wanted<'_>) -> bool {
        wanted.needs.is_subset(&self.can) && version_satisfies(&self.version, wanted.min_version)
    }
}

#[cfg(test)]
mod tests;
