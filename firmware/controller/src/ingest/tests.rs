use std::path::Path;

use fleet_protocol::payload::Durable;
use serde_json::{Value, json};

use super::*;
use crate::config::EXAMPLE;
use crate::store::Reader;

const BOX: &str = "box-7f3a9c2e41d05b68";
const EPOCH: &str = "9c1f02aa";

struct Bench {
    ingest: Ingest,
    reader: Reader,
    out: mpsc::Receiver<Output>,
    shared: Arc<Mutex<Shared>>,
    now: u64,
}

impl Bench {
    fn new(dir: &Path, change: impl Fn(&mut Config)) -> Self {
        let mut config = Config::parse(EXAMPLE).unwrap();
        config.database = dir.join("fleet.db");
        config.auto_enrol = true;
        config.boxes.clear();
        change(&mut config);
        let store = Store::open(&config.database).unwrap();
        let reader = Reader::open(&config.database).unwrap();
        let (sender, out) = mpsc::channel(64);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let ingest = Ingest::new(config, store, Keys::default(), sender, Arc::clone(&shared)).unwrap();
        let mut bench = Self { ingest, reader, out, shared, now: 0 };
        bench.step(vec![Input::Connected], 0);
        bench.sent();
        bench
    }

    fn step(&mut self, inputs: Vec<Input>, after_s: u64) {
        self.now += after_s;
        let now_ms = i64::try_from(self.now).unwrap() * 1000;
        self.ingest.step(inputs, Duration::from_secs(self.now), now_ms);
    }

    fn sent(&mut self) -> Vec<(String, Value)> {
        std::iter::from_fn(|| self.out.try_recv().ok())
            .map(|output| {
                let leaf = output.topic.rsplit_once(&format!("{BOX}/")).map_or("ctl", |(_, leaf)| leaf).to_owned();
                (leaf, serde_json::from_slice(&output.payload).unwrap())
            })
            .collect()
    }

    fn presence(&self) -> Presence {
        let shared = self.shared.lock().unwrap();
        shared.boxes[&BoxId::new(BOX).unwrap()].presence
    }

    fn events(&self) -> Vec<u64> {
        let events = self.reader.events(Some(BOX), false, 1000).unwrap();
        let mut own: Vec<u64> =
            events.into_iter().filter(|event| event.id == "NODE-DOWN").map(|event| event.q).collect();
        own.sort_unstable();
        own
    }
}

fn message(leaf: &str, body: &Value) -> Input {
    raw(&format!("millrace/v1/home/{BOX}/{leaf}"), body.to_string().as_bytes())
}

fn raw(topic: &str, payload: &[u8]) -> Input {
    Input::Message { topic: topic.as_bytes().to_vec(), payload: payload.to_vec(), retain: false }
}

fn birth(n: u64) -> Input {
    message(
        "state",
        &json!({"v":1,"on":true,"e":EPOCH,"b":1,"n":n,"hb":10,"ka":10,"why":"boot","fw":"1.0","mode":"run"}),
    )
}

fn event(q: u64, previous: u64) -> Input {
    let mut body = json!({"v":1,"e":EPOCH,"b":1,"n":1,"q":q,"u":1,"id":"NODE-DOWN","op":"occur","sev":"err"});
    if previous + 1 != q {
        body["pq"] = json!(previous);
    }
    message("event/err", &body)
}

fn heartbeat(n: u64, q: u64) -> Input {
    message("tele/hb", &json!({"v":1,"e":EPOCH,"b":1,"n":n,"q":q,"u":1,"m":{"ok":90,"md":"run"}}))
}

#[test]
fn a_birth_is_greeted_with_what_is_stored_and_records_are_acknowledged_after_their_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.ack_s = 60);
    bench.step(vec![birth(1)], 1);
    assert_eq!(bench.presence(), Presence::Online);
    assert_eq!(bench.sent(), [("ack".to_owned(), json!({"v":1,"e":EPOCH,"srv":"main"}))]);
    bench.step(vec![event(1, 0), event(2, 1)], 1);
    assert_eq!(bench.sent(), []);
    bench.step(vec![heartbeat(1, 1)], 60);
    assert_eq!(bench.sent(), [("ack".to_owned(), json!({"v":1,"e":EPOCH,"A":2,"srv":"main"}))]);
    assert_eq!(bench.events(), [1, 2]);
}

#[test]
fn many_records_are_acknowledged_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.ack_records = 5);
    bench.step(vec![birth(1)], 1);
    bench.sent();
    bench.step((1..=4).map(|q| event(q, q - 1)).collect(), 1);
    assert_eq!(bench.sent(), []);
    bench.step(vec![event(5, 4)], 1);
    assert_eq!(bench.sent()[0].1["A"], 5);
}

#[test]
fn a_record_that_comes_twice_is_stored_once_and_acknowledged_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.ack_s = 0);
    bench.step(vec![birth(1), event(1, 0)], 1);
    bench.sent();
    bench.step(vec![event(1, 0), event(1, 0)], 1);
    assert_eq!(bench.events(), [1]);
    assert_eq!(bench.sent()[0].1["A"], 1);
}

#[test]
fn a_hole_is_not_acknowledged_over_and_the_box_is_asked_after_the_reorder_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| {
        config.ack_s = 0;
        config.reorder_s = 60;
        config.rebirth_s = 600;
    });
    bench.step(vec![birth(1), event(1, 0), event(3, 2)], 1);
    assert_eq!(bench.sent()[0].1["A"], 1);
    bench.step(vec![], 59);
    assert_eq!(bench.sent(), []);
    bench.step(vec![], 1);
    assert_eq!(bench.sent(), [("cmd/rebirth".to_owned(), json!({}))]);
    bench.step(vec![], 300);
    assert_eq!(bench.sent(), [], "asked at most every ten minutes");
    bench.step(vec![event(2, 1)], 1);
    assert_eq!(bench.sent()[0].1["A"], 3);
    assert_eq!(bench.events(), [1, 2, 3]);
}

#[test]
fn cursors_and_presence_history_survive_a_restart_and_no_box_is_online_without_proof() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.ack_s = 0);
    bench.step(vec![birth(1), event(1, 0), event(2, 1), event(5, 4)], 1);
    drop(bench);
    let mut bench = Bench::new(dir.path(), |config| config.ack_s = 0);
    assert_eq!(bench.presence(), Presence::Unknown);
    bench.step(vec![event(3, 2), event(4, 3), event(1, 0)], 1);
    assert_eq!(bench.sent()[0].1["A"], 5);
    assert_eq!(bench.events(), [1, 2, 3, 4, 5]);
    assert_eq!(bench.presence(), Presence::Unknown, "history proves nothing");
    bench.step(vec![heartbeat(1, 9)], 1);
    assert_eq!(bench.presence(), Presence::Online);
}

#[test]
fn losing_the_broker_makes_every_box_unknown_and_never_offline() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |_| {});
    bench.step(vec![birth(1)], 1);
    bench.step(vec![Input::Lost], 1);
    assert_eq!(bench.presence(), Presence::Unknown);
    bench.step(vec![], 100_000);
    assert_eq!(bench.presence(), Presence::Unknown);
}

#[test]
fn a_box_that_is_gone_for_long_raises_an_alarm_and_its_return_clears_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.offline_alarm_s = 300);
    bench.step(vec![birth(1)], 1);
    bench.step(vec![message("state", &json!({"v":1,"on":false,"e":EPOCH,"b":1,"n":1,"why":"will"}))], 1);
    assert_eq!(bench.presence(), Presence::Suspect);
    bench.step(vec![], 60);
    assert_eq!(bench.presence(), Presence::Offline);
    let open = |bench: &Bench| {
        let events = bench.reader.events(Some(BOX), true, 10).unwrap();
        events.into_iter().map(|event| event.id).collect::<Vec<_>>()
    };
    assert!(open(&bench).is_empty());
    bench.step(vec![], 300);
    assert_eq!(open(&bench), [id::BOX_OFFLINE]);
    bench.step(vec![birth(2)], 10);
    assert!(open(&bench).is_empty());
}

#[test]
fn foreign_fleets_unlisted_boxes_and_odd_topics_are_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.auto_enrol = false);
    let body = json!({"v":1,"on":true,"e":EPOCH,"b":1,"n":1,"why":"boot"}).to_string();
    bench.step(
        vec![
            birth(1),
            raw(&format!("millrace/v1/other/{BOX}/state"), body.as_bytes()),
            raw("millrace/v1/home/box-x/state", body.as_bytes()),
            raw("\u{fffd}", b"{}"),
        ],
        1,
    );
    assert!(bench.shared.lock().unwrap().boxes.is_empty());
    assert_eq!(bench.shared.lock().unwrap().counters.foreign, 4);
}

#[test]
fn nonsense_mutes_its_class_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |_| {});
    bench.step(vec![birth(1)], 1);
    bench.step((0..10).map(|_| raw(&format!("millrace/v1/home/{BOX}/tele/vit"), b"{\"v\":1,\"v\":1}")).collect(), 1);
    let counters = bench.shared.lock().unwrap().counters;
    assert_eq!((counters.malformed, counters.limited), (6, 4));
    bench.step(vec![event(1, 0)], 1);
    let events = bench.reader.events(Some(BOX), false, 10).unwrap();
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["NODE-DOWN", id::MSG_MALFORMED]);
}

#[test]
fn an_event_under_another_severitys_topic_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |_| {});
    let body = json!({"v":1,"e":EPOCH,"b":1,"n":1,"q":1,"u":1,"id":"NODE-DOWN","op":"occur","sev":"crit"});
    bench.step(vec![message("event/info", &body)], 1);
    assert_eq!(bench.events(), Vec::<u64>::new());
}

#[test]
fn history_does_not_overwrite_the_newest_earnings() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |_| {});
    let earn = |q: u64, received: u64| {
        message("tele/earn", &json!({"v":1,"e":EPOCH,"b":1,"n":1,"q":q,"u":1,"m":{"tr":received,"twv":"5"}}))
    };
    bench.step(vec![birth(1), earn(1, 10), earn(3, 30), earn(2, 20)], 1);
    let summary = bench.reader.summaries(Some(BOX)).unwrap().pop().unwrap();
    assert_eq!(summary.earnings.unwrap().tickets_received, 30);
    let tracked = bench.ingest.boxes.get_mut(&BoxId::new(BOX).unwrap()).unwrap();
    assert_eq!(tracked.cursor(&fleet_protocol::Epoch::new(EPOCH).unwrap(), Durable::Earnings).stored(), 3);
}

#[test]
fn lost_heartbeats_are_counted_and_a_box_never_born_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |_| {});
    bench.step(vec![heartbeat(1, 1), heartbeat(1, 5)], 1);
    assert_eq!(bench.sent(), [("cmd/rebirth".to_owned(), json!({}))]);
    let shared = bench.shared.lock().unwrap();
    assert_eq!(shared.boxes[&BoxId::new(BOX).unwrap()].lost["hb"], 3);
}

#[test]
fn what_the_disk_refuses_is_not_acknowledged_and_is_stored_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path(), |config| config.ack_s = 0);
    bench.step(vec![birth(1), event(1, 0)], 1);
    bench.sent();
    bench.ingest.store.refuse_writes(true);
    bench.step(vec![event(2, 1)], 1);
    assert_eq!(bench.sent(), []);
    assert!(!bench.shared.lock().unwrap().store_ok);
    bench.ingest.store.refuse_writes(false);
    bench.step(vec![event(3, 2)], 1);
    assert_eq!(bench.sent()[0].1["A"], 1, "the lost record is a hole, not a gap that is acknowledged over");
    bench.step(vec![event(2, 1)], 1);
    assert_eq!(bench.sent()[0].1["A"], 3);
    assert_eq!(bench.events(), [1, 2, 3]);
}
