//! A campaign over a fleet of some hundred boxes in virtual time: boxes that decide for themselves, a controller that sets
//! the pace, and everything that goes wrong between them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::pacer::{Known, Step, step, tally};
use super::*;
use crate::payload::Standing;

const START: i64 = 1_795_327_000_000;
const MINUTE: i64 = 60_000;
/// How finely time is looked at.
const TICK: i64 = 10 * MINUTE;
const HOUR: i64 = 60 * MINUTE;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn operators() -> Keys {
    Keys { release: vec![key(1).verifying_key(), key(2).verifying_key()], threshold: 1, test: true }
}

fn id(number: usize) -> BoxId {
    BoxId::new(format!("box-{number:016x}")).unwrap()
}

fn plan_json() -> Value {
    json!({"v": 1, "cid": "019ab000-0000-7000-8000-000000000009", "name": "fw-120", "fleet": "acme",
        "by": KeyId::of(&key(1).verifying_key()), "iat": START, "exp": START + 30 * 24 * HOUR, "ctr": 5, "version": "1.2.0",
        "manifest": "https://r.example/manifest.json", "pacer": BASE64.encode(key(7).verifying_key().as_bytes()),
        "rings": [{"name": "lab", "boxes": [id(0), id(1)], "soak_h": 2}, {"name": "canary", "pct": 5, "soak_h": 24},
            {"name": "wide", "pct": 30, "soak_h": 12}, {"name": "all", "pct": 100}],
        "gate": {"min_n": 6, "ok_pct": 90, "fail_max": 3, "fail_pct": 10, "timeout_h": 6},
        "rate": {"dl_window_s": 7200}})
}

fn plan() -> Campaign {
    let plan: Campaign = serde_json::from_value(plan_json()).unwrap();
    plan.check().unwrap();
    plan
}

/// How a box takes the new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Well,
    RollsBack,
    /// It begins and is never heard of again.
    Dies,
    /// It was gone before it all began.
    Away,
}

struct SimBox {
    id: BoxId,
    nature: Nature,
    answer: Option<(Standing, i64)>,
    seen: i64,
    /// When it goes to its next step.
    busy_until: i64,
    installed: Option<i64>,
}

struct Sim {
    plan: Campaign,
    pace: Pace,
    boxes: Vec<SimBox>,
    chance: StdRng,
    now: i64,
    done: bool,
    /// The broker delivers a pace this much later.
    delay: i64,
    said: Vec<(i64, Pace)>,
}

impl Sim {
    fn new(count: usize, nature: impl Fn(usize) -> Nature) -> Self {
        let boxes = (0..count).map(|number| SimBox {
            id: id(number),
            nature: nature(number),
            answer: None,
            seen: START - HOUR,
            busy_until: 0,
            installed: None,
        });
        let (plan, boxes) = (plan(), boxes.collect());
        let pace = Pace::new(&plan.cid);
        let said = vec![(START, pace.clone())];
        Self { plan, pace, boxes, chance: StdRng::seed_from_u64(11), now: START, done: false, delay: TICK, said }
    }

    fn known(&self) -> Vec<Known> {
        let known = |this: &SimBox| Known {
            id: this.id.clone(),
            answer: this.answer,
            deferred: false,
            seen_ms: Some(this.seen),
        };
        self.boxes.iter().map(known).collect()
    }

    /// A tick of everybody's life.
    fn tick(&mut self) {
        self.now += TICK;
        let heard = self.said.iter().rev().find(|(at, _)| at + self.delay <= self.now).map(|(_, pace)| pace.clone());
        let rolling = Rolling { plan: self.plan.clone(), pace: heard.unwrap_or_else(|| Pace::new(&self.plan.cid)) };
        for this in &mut self.boxes {
            let gone = this.nature == Nature::Away || (this.nature == Nature::Dies && this.answer.is_some());
            if gone {
                continue;
            }
            this.seen = self.now;
            match (this.answer, rolling.verdict(&this.id, self.now)) {
                (None, Verdict::Go) => {
                    this.answer = Some((Standing::Running, self.now));
                    this.busy_until = self.now + MINUTE * self.chance.gen_range(5..60);
                }
                // Staged: whoever is halted now does not install.
                (Some((Standing::Running, _)), Verdict::Go) if self.now >= this.busy_until => {
                    this.installed = Some(self.now);
                    let became = if this.nature == Nature::Well { Standing::Done } else { Standing::Reverted };
                    this.answer = Some((became, self.now));
                }
                _ => {}
            }
        }
        match step(&self.plan, &self.pace, &self.known(), self.now) {
            Step::Stay => {}
            Step::Done => self.done = true,
            Step::Set(next) => {
                assert!(next.follows(&self.pace), "{next:?} after {:?}", self.pace);
                self.pace = next.clone();
                self.said.push((self.now, next));
            }
        }
    }

    fn run(&mut self, hours: i64) {
        for _ in 0..hours * HOUR / TICK {
            if self.done || self.pace.halt {
                return;
            }
            self.tick();
        }
    }

    fn installed(&self) -> usize {
        self.boxes.iter().filter(|this| this.installed.is_some()).count()
    }

    fn of_ring(&self, ring: usize) -> impl Iterator<Item = &SimBox> {
        self.boxes.iter().filter(move |this| self.plan.ring_of(&this.id) == Some(ring))
    }
}

#[test]
fn a_good_version_reaches_everybody_ring_after_ring_each_in_its_window_and_after_the_soak() {
    let mut sim = Sim::new(400, |_| Nature::Well);
    sim.run(24 * 20);
    assert!(sim.done, "{:?}", sim.pace);
    assert_eq!(sim.installed(), 400);
    assert_eq!(sim.pace.opened.len(), 4);
    for ring in 0..4 {
        let opened = sim.pace.opened[ring];
        let begins: Vec<i64> = sim.of_ring(ring).map(|this| this.installed.unwrap()).collect();
        assert!(begins.iter().all(|at| *at >= opened), "ring {ring} began before it was opened");
        if let Some(next) = sim.pace.opened.get(ring + 1) {
            let last = begins.iter().max().unwrap();
            assert!(next - last >= hours_ms(sim.plan.rings[ring].soak_h), "ring {ring} did not soak");
        }
    }
    // The last ring is large enough to see that its beginning is spread: no quarter of the window has more than its share.
    let moments: Vec<i64> = sim.of_ring(3).map(|this| sim.plan.moment_ms(&this.id)).collect();
    for quarter in 0..4 {
        let window = 7_200_000 / 4;
        let inside = moments.iter().filter(|at| (quarter * window..(quarter + 1) * window).contains(*at)).count();
        assert!((moments.len() / 8..moments.len() / 2).contains(&inside), "{inside} of {}", moments.len());
    }
}

#[test]
fn a_version_that_rolls_back_everywhere_stops_in_the_second_ring() {
    let mut sim = Sim::new(400, |_| Nature::RollsBack);
    // The lab has two boxes, too few to halt by number; it halts because none of its ring is well.
    sim.run(24 * 20);
    assert!(sim.pace.halt, "{:?}", sim.pace);
    assert_eq!((sim.installed(), sim.pace.opened.len()), (2, 1));
    assert!(sim.pace.why.as_deref().unwrap().contains("ring lab: 0 of 2 are well"), "{:?}", sim.pace.why);
}

#[test]
fn a_version_that_fails_one_in_three_is_halted_among_the_canaries_and_nobody_installs_after_it() {
    let mut sim = Sim::new(600, |number| if number > 1 && number % 3 == 0 { Nature::RollsBack } else { Nature::Well });
    sim.run(24 * 20);
    assert!(sim.pace.halt, "{:?}", sim.pace);
    assert_eq!(sim.pace.opened.len(), 2);
    let canaries = sim.of_ring(1).count();
    let before = sim.installed();
    assert!(before <= 2 + canaries, "{before} of {canaries}");
    // What was said takes a while to arrive; then nothing moves, however long one waits.
    let last = sim.now + sim.delay;
    for _ in 0..60 {
        sim.tick();
    }
    let late = sim.boxes.iter().filter(|this| this.installed.is_some_and(|at| at > last)).count();
    assert_eq!(late, 0, "installed while halted");
    assert!(sim.boxes.iter().any(|this| matches!(this.answer, Some((Standing::Running, _)))), "nobody was staged");
    // A person looks, and lets it go on: those who were staged go on from there.
    sim.pace = pacer::resumed(&sim.pace, sim.now);
    sim.said.push((sim.now, sim.pace.clone()));
    assert_eq!(step(&sim.plan, &sim.pace, &sim.known(), sim.now), Step::Stay, "what failed before is forgiven");
    sim.tick();
    assert!(sim.installed() > before, "{:?}", sim.pace);
    // More of the same, and it is halted again.
    sim.run(24 * 20);
    assert!(sim.pace.halt && sim.pace.opened.len() <= 3, "{:?}", sim.pace);
}

#[test]
fn boxes_that_fall_silent_count_as_failed_and_those_that_were_away_before_do_not() {
    let mut sim = Sim::new(500, |number| if number % 4 == 1 { Nature::Dies } else { Nature::Well });
    sim.run(24 * 20);
    assert!(sim.pace.halt, "{:?}", sim.pace);
    assert!(sim.pace.opened.len() <= 2);

    let mut sim = Sim::new(500, |number| if number % 4 == 1 { Nature::Away } else { Nature::Well });
    sim.run(24 * 20);
    assert!(sim.done, "{:?}", sim.pace);
    let rings = tally(&sim.plan, &sim.pace, &sim.known(), sim.now);
    assert_eq!(rings.iter().map(|ring| ring.absent).sum::<u64>(), 125);
    assert_eq!(rings.iter().map(|ring| ring.done).sum::<u64>(), 375);
    assert_eq!(rings.iter().map(super::pacer::Tally::boxes).sum::<u64>(), 500);
}

#[test]
fn shares_include_those_before_and_every_box_has_its_ring_for_ever() {
    let plan = plan();
    let count = |ring: usize| (0..4000).filter(|number| plan.ring_of(&id(*number)) == Some(ring)).count();
    assert_eq!(count(0), 2);
    assert!((120..280).contains(&count(1)), "{}", count(1));
    assert!((850..1150).contains(&count(2)), "{}", count(2));
    assert_eq!((0..4).map(count).sum::<usize>(), 4000);
    let mut half: Value = plan_json();
    half["rings"] = json!([{"name": "half", "pct": 50}]);
    let half: Campaign = serde_json::from_value(half).unwrap();
    assert!((0..100).any(|number| half.ring_of(&id(number)).is_none()));
}

fn signed(plan: &Value, pace: &Pace, planner: u8, paced_by: u8) -> Vec<u8> {
    let plan = dsse::sign(CAMPAIGN, plan.to_string().as_bytes(), &key(planner)).unwrap();
    let pace = dsse::sign(PACE, &serde_json::to_vec(pace).unwrap(), &key(paced_by)).unwrap();
    Rolling::message(&plan, &pace).unwrap()
}

#[test]
fn a_plan_is_the_operators_and_its_pace_that_of_the_key_it_names() {
    let pace = Pace::new(&plan().cid);
    let good = Rolling::read(&signed(&plan_json(), &pace, 1, 7), &operators()).unwrap();
    assert_eq!((good.plan, &good.pace), (plan(), &pace));
    let refused = |message: Vec<u8>| Rolling::read(&message, &operators()).unwrap_err();
    // Not the operators', not its author's, not the pacer's; even an operator may not set the pace of this plan.
    assert!(matches!(refused(signed(&plan_json(), &pace, 7, 7)), CampaignError::Envelope(DsseError::Threshold { .. })));
    assert!(matches!(refused(signed(&plan_json(), &pace, 2, 7)), CampaignError::Author));
    assert!(matches!(refused(signed(&plan_json(), &pace, 1, 1)), CampaignError::Envelope(DsseError::Threshold { .. })));
    let other = Pace::new("019ab000-0000-7000-8000-00000000000a");
    assert!(matches!(refused(signed(&plan_json(), &other, 1, 7)), CampaignError::OtherPace));
    let beyond = Pace { opened: vec![START; 5], ..pace.clone() };
    assert!(matches!(refused(signed(&plan_json(), &beyond, 1, 7)), CampaignError::OtherPace));
    assert!(matches!(refused(b"{}".to_vec()), CampaignError::Shape(_)));
    assert!(matches!(refused(vec![b' '; TO_BOX_MAX + 1]), CampaignError::Envelope(_)));
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_by_its_field() {
    let cases = [
        ("cid", "/cid", json!("x")),
        ("exp", "/exp", json!(START)),
        ("manifest", "/manifest", json!("file:///etc/passwd")),
        ("pacer", "/pacer", json!("AAAA")),
        ("rings", "/rings", json!([])),
        ("rings", "/rings/3", json!({"name": "nobody"})),
        ("rings.pct", "/rings/3/pct", json!(1)),
        ("rings.pct", "/rings/3/pct", json!(101)),
        ("rings.soak_h", "/rings/0/soak_h", json!(-1)),
        ("gate", "/gate/ok_pct", json!(200)),
        ("gate.fail_max", "/gate/min_n", json!(0)),
        ("gate.timeout_h", "/gate/timeout_h", json!(0)),
        ("rate.dl_window_s", "/rate/dl_window_s", json!(999_999)),
    ];
    for (named, place, value) in cases {
        let mut plan = plan_json();
        *plan.pointer_mut(place).unwrap() = value;
        let plan: Campaign = serde_json::from_value(plan).unwrap();
        match plan.check() {
            Err(CampaignError::Field { field, .. }) => assert_eq!(field, named, "{place}"),
            other => panic!("{place}: {other:?}"),
        }
    }
}

#[test]
fn an_old_pace_and_one_that_closes_a_ring_do_not_follow() {
    let pace = Pace { n: 4, opened: vec![1, 2], ..Pace::new(&plan().cid) };
    let next = |n: u64, opened: &[i64]| Pace { n, opened: opened.to_vec(), ..pace.clone() };
    assert!(next(5, &[1, 2]).follows(&pace) && next(9, &[1, 2, 3]).follows(&pace));
    for old in [next(4, &[1, 2, 3]), next(3, &[1, 2]), next(5, &[1]), next(5, &[1, 3])] {
        assert!(!old.follows(&pace), "{old:?}");
    }
}
