use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(1);

fn caps(numbers: &[u32]) -> CapabilitySet {
    numbers.iter().copied().collect()
}

struct Ask<'a> {
    session: &'a str,
    needs: CapabilitySet,
    tried: Vec<MemberId>,
}

fn ask(session: &str) -> Ask<'_> {
    Ask { session, needs: caps(&[0]), tried: Vec::new() }
}

impl Ask<'_> {
    fn of(self, registry: &mut Registry) -> Result<MemberId, Nobody> {
        self.at(registry, NOW)
    }

    fn at(self, registry: &mut Registry, now: Duration) -> Result<MemberId, Nobody> {
        let (needs, tried) = (&self.needs, &self.tried);
        let wanted = Wanted { session: self.session, needs, min_version: "", rate: 1000.0, tried };
        registry.choose(&wanted, now).map(|chosen| chosen.member)
    }
}

fn work(pixels: f64, took_s: u64) -> Work {
    Work { pixels, content: Duration::from_secs(2), took: Duration::from_secs(took_s) }
}

#[test]
fn a_session_stays_where_it_is_and_new_ones_go_to_the_least_loaded() {
    let mut registry = Registry::default();
    let large = registry.add(4, caps(&[0]), "0.9.1".into());
    let small = registry.add(2, caps(&[0]), "0.9.1".into());
    assert_eq!(ask("a").of(&mut registry), Ok(large));
    assert_eq!(ask("b").of(&mut registry), Ok(large), "a half of two is more than a quarter of four");
    assert_eq!(ask("c").of(&mut registry), Ok(small));
    assert_eq!(ask("a").of(&mut registry), Ok(large));
}

#[test]
fn load_is_what_was_measured_not_how_many_sessions_there_are() {
    let mut registry = Registry::default();
    let boasting = registry.add(100, caps(&[0]), String::new());
    let honest = registry.add(2, caps(&[0]), String::new());
    assert_eq!(ask("a").of(&mut registry), Ok(boasting));
    registry.succeeded(boasting, "a", work(2000.0, 2), 1, NOW);
    assert_eq!(ask("b").of(&mut registry), Ok(honest), "the other one already works at its limit");
    registry.succeeded(honest, "b", work(200_000.0, 1), 1, NOW);
    assert_eq!(ask("c").of(&mut registry), Ok(honest));
}

#[test]
fn nobody_gets_more_sessions_than_he_takes() {
    let mut registry = Registry::default();
    let only = registry.add(1, caps(&[0]), String::new());
    assert_eq!(ask("a").of(&mut registry), Ok(only));
    assert_eq!(ask("b").of(&mut registry), Err(Nobody::Available));
    assert_eq!(registry.forget("a"), Some(only));
    assert_eq!(ask("b").of(&mut registry), Ok(only));
}

#[test]
fn our_own_pool_is_the_reserve() {
    let mut registry = Registry::default();
    registry.set_local(10, caps(&[0]), "0.9.1");
    let other = registry.add(1, caps(&[0]), String::new());
    assert_eq!(ask("a").of(&mut registry), Ok(other));
    assert_eq!(ask("b").of(&mut registry), Ok(LOCAL));
    registry.forget("a");
    registry.succeeded(other, "x", work(10.0, 1), 1, NOW);
    assert_eq!(ask("c").of(&mut registry), Ok(LOCAL), "the other one would not keep up with this session");
}

#[test]
fn capabilities_and_version_decide_who_is_asked() {
    let mut registry = Registry::default();
    registry.add(5, caps(&[0]), "0.8.0".into());
    let hevc = registry.add(5, caps(&[0, 15]), "0.9.1".into());
    let needs = caps(&[0, 15]);
    assert_eq!(Ask { needs, ..ask("a") }.of(&mut registry), Ok(hevc));
    assert_eq!(Ask { needs: caps(&[20]), ..ask("b") }.of(&mut registry), Err(Nobody::Capable));
    let wanted = Wanted { session: "c", needs: &caps(&[0]), min_version: "0.9.0", rate: 1.0, tried: &[] };
    assert_eq!(registry.choose(&wanted, NOW).unwrap().member, hevc);
    // A session whose needs grow moves on.
    registry.forget("a");
    assert!(ask("d").of(&mut registry).is_ok());
    let wanted = Wanted { session: "d", needs: &caps(&[15]), min_version: "", rate: 1.0, tried: &[] };
    assert_eq!(registry.choose(&wanted, NOW).unwrap().member, hevc);
}

#[test]
fn who_failed_is_not_asked_again_for_this_segment() {
    let mut registry = Registry::default();
    let one = registry.add(5, caps(&[0]), String::new());
    let two = registry.add(4, caps(&[0]), String::new());
    assert_eq!(ask("a").of(&mut registry), Ok(one));
    registry.failed(one, "a", NOW);
    assert_eq!(Ask { tried: vec![one], ..ask("a") }.of(&mut registry), Ok(two));
    assert_eq!(ask("a").of(&mut registry), Ok(two), "and the session stays where it went well");
    assert_eq!(Ask { tried: vec![one, two], ..ask("a") }.of(&mut registry), Err(Nobody::Available));
}

#[test]
fn a_benched_transcoder_loses_its_sessions_and_comes_back_with_one() {
    let mut registry = Registry::default();
    let bad = registry.add(5, caps(&[0]), String::new());
    registry.set_local(10, caps(&[0]), "");
    for session in ["a", "b", "c"] {
        assert_eq!(ask(session).of(&mut registry), Ok(bad));
    }
    registry.failed(bad, "a", NOW);
    registry.failed(bad, "b", NOW);
    assert_eq!(ask("c").of(&mut registry), Ok(LOCAL));
    assert_eq!(ask("a").of(&mut registry), Ok(LOCAL));
    let later = NOW + Duration::from_secs(30);
    assert_eq!(ask("new").at(&mut registry, later), Ok(bad), "on probation");
    assert_eq!(ask("newer").at(&mut registry, later), Ok(LOCAL));
    registry.succeeded(bad, "new", work(2_000_000.0, 1), 1, later);
    assert_eq!(ask("newest").at(&mut registry, later), Ok(bad));
}

#[test]
fn our_own_pool_is_never_benched() {
    let mut registry = Registry::default();
    registry.set_local(2, caps(&[0]), "");
    for _ in 0..9 {
        assert_eq!(ask("a").of(&mut registry), Ok(LOCAL));
        registry.failed(LOCAL, "a", NOW);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Remove(MemberId),
    Choose(u8),
    Forget(u8),
    Fail(u8),
    Succeed(u8),
    Local(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_usize).prop_map(Step::Add),
        (0..12_u64).prop_map(Step::Remove),
        any::<u8>().prop_map(|s| Step::Choose(s % 16)),
        any::<u8>().prop_map(|s| Step::Forget(s % 16)),
        any::<u8>().prop_map(|s| Step::Fail(s % 16)),
        any::<u8>().prop_map(|s| Step::Succeed(s % 16)),
        (0..3_usize).prop_map(Step::Local),
    ]
}

proptest! {
    #[test]
    fn whoever_comes_and_goes_the_others_keep_what_they_have(steps in prop::collection::vec(step(), 0..200)) {
        let mut registry = Registry::default();
        let mut alive: BTreeMap<MemberId, usize> = BTreeMap::new();
        for (second, step) in (0..).zip(steps) {
            let now = Duration::from_secs(second);
            let bound: BTreeMap<_, _> = registry.sessions.iter().map(|(s, b)| (s.clone(), b.member)).collect();
            let name = |session: u8| format!("session-{session}");
            let mut touched = None;
            match step {
                Step::Add(capacity) => {
                    let id = registry.add(capacity, caps(&[0]), String::new());
                    prop_assert!(alive.insert(id, capacity).is_none(), "no number is used twice");
                }
                Step::Remove(id) => {
                    registry.remove(id);
                    alive.remove(&id);
                    prop_assert!(registry.sessions.values().all(|binding| binding.member != id));
                    // Nobody else's session moved.
                    for (session, member) in bound.iter().filter(|(_, member)| **member != id) {
                        prop_assert_eq!(registry.sessions[session].member, *member);
                    }
                    touched = Some(id);
                }
                Step::Choose(session) => {
                    let chosen = ask(&name(session)).at(&mut registry, now);
                    match chosen {
                        Ok(id) => prop_assert!(alive.contains_key(&id)),
                        Err(nobody) => prop_assert!(nobody == Nobody::Available, "all can do it"),
                    }
                }
                Step::Forget(session) => {
                    prop_assert_eq!(registry.forget(&name(session)), bound.get(&name(session)).copied());
                }
                Step::Fail(session) => {
                    if let Some(id) = bound.get(&name(session)) {
                        registry.failed(*id, &name(session), now);
                    }
                }
                Step::Succeed(session) => {
                    if let Some(id) = bound.get(&name(session)) {
                        registry.succeeded(*id, &name(session), work(1e9, 1), 1, now);
                    }
                }
                Step::Local(capacity) => {
                    registry.set_local(capacity, caps(&[0]), "");
                    if capacity == 0 { alive.remove(&LOCAL) } else { alive.insert(LOCAL, capacity) };
                    touched = Some(LOCAL);
                }
            }
            prop_assert_eq!(registry.members.keys().collect::<Vec<_>>(), alive.keys().collect::<Vec<_>>());
            let total: usize = alive.iter().filter(|(id, _)| **id != LOCAL).map(|(_, capacity)| capacity).sum();
            prop_assert_eq!(registry.attached().0, total);
            for (id, capacity) in &alive {
                let carried = registry.load_of(*id).0;
                // The size of our own pool may shrink below what it has; nobody else's can.
                prop_assert!(carried <= *capacity || touched == Some(LOCAL) || *id == LOCAL);
            }
        }
    }
}
