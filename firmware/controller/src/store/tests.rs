use fleet_protocol::event::{Op, Severity};
use serde_json::json;

use super::*;

fn box_id() -> BoxId {
    BoxId::new("box-7f3a9c2e41d05b68").unwrap()
}

fn open(dir: &Path) -> (Store, Reader) {
    let path = dir.join("fleet.db");
    let mut store = Store::open(&path).unwrap();
    let batch = store.batch().unwrap();
    batch.enrol(&box_id(), &FleetId::new("acme").unwrap(), 1).unwrap();
    batch.commit().unwrap();
    let reader = Reader::open(&path).unwrap();
    (store, reader)
}

fn key(id: &BoxId, q: u64) -> Key<'_> {
    Key { id, e: "9c1f02aa", q, previous: q - 1, at_ms: i64::try_from(q).unwrap(), t: None }
}

fn event(op: Op) -> EventBody {
    EventBody::new("NODE-DOWN", op, Severity::Err)
}

#[test]
fn a_record_is_stored_once_and_the_cursor_continues_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(dir.path());
    let (id, epoch) = (box_id(), Epoch::new("9c1f02aa").unwrap());
    let batch = store.batch().unwrap();
    for q in [1, 2, 2, 4] {
        batch.event(key(&id, q), &event(Op::Occur)).unwrap();
    }
    batch.cursor(&id, &epoch, Durable::Events, 2).unwrap();
    batch.commit().unwrap();
    assert_eq!(reader.events(None, false, 10).unwrap().len(), 3);
    drop(store);
    let store = Store::open(&dir.path().join("fleet.db")).unwrap();
    let cursor = store.cursor(&id, &epoch, Durable::Events).unwrap();
    assert_eq!((cursor.stored(), cursor.ahead()), (2, 1));
    assert_eq!(store.cursor(&id, &epoch, Durable::Ledger).unwrap(), Cursor::default());
}

#[test]
fn what_is_not_committed_does_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(dir.path());
    let batch = store.batch().unwrap();
    batch.event(key(&box_id(), 1), &event(Op::Occur)).unwrap();
    drop(batch);
    assert!(reader.events(None, false, 10).unwrap().is_empty());
}

#[test]
fn an_alarm_is_open_until_its_clear_whatever_order_they_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(dir.path());
    let id = box_id();
    let mut put = |q, op| {
        let batch = store.batch().unwrap();
        batch.event(key(&id, q), &event(op)).unwrap();
        batch.commit().unwrap();
        reader.events(None, true, 10).unwrap().len()
    };
    assert_eq!(put(1, Op::Raise), 1);
    assert_eq!(put(2, Op::Clear), 0);
    assert_eq!(put(4, Op::Clear), 0);
    assert_eq!(put(3, Op::Raise), 0, "a raise that was overtaken by its clear stays closed");
    assert_eq!(put(5, Op::Raise), 1);
    let summary = reader.summaries(None).unwrap().pop().unwrap();
    assert_eq!((summary.open_alarms, summary.top_alarm.as_deref()), (1, Some("NODE-DOWN")));
}

#[test]
fn left_out_metrics_keep_their_last_value() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(dir.path());
    let id = box_id();
    for m in [json!({"sg": 5, "rtr": [3.0, 2.0], "sf": [1, 2]}), json!({"sg": 6})] {
        let batch = store.batch().unwrap();
        batch.last_values(&id, "str", m.as_object().unwrap(), 9).unwrap();
        batch.commit().unwrap();
    }
    let summary = reader.summaries(None).unwrap().pop().unwrap();
    assert_eq!((summary.segments_ok, summary.segments_failed, summary.rtr_p05), (Some(6), Some(3), Some(2.0)));
    let detail = reader.detail(id.as_str()).unwrap().unwrap();
    assert_eq!(detail.last["str"].m.len(), 3);
    assert!(reader.detail("box-0000000000000000").unwrap().is_none());
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    assert!(matches!(Store::open(&dir.path().join("fleet.db")), Err(StoreError::Newer(99))));
}

#[test]
fn old_rows_are_pruned_and_the_ledger_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, reader) = open(dir.path());
    let id = box_id();
    let batch = store.batch().unwrap();
    for q in [1, 100] {
        batch.event(key(&id, q), &event(Op::Occur)).unwrap();
        batch.metrics(Durable::Ledger, key(&id, q), json!({"blk": 1}).as_object().unwrap()).unwrap();
    }
    batch.commit().unwrap();
    store.prune(50).unwrap();
    assert_eq!(reader.events(None, false, 10).unwrap().len(), 1);
    let ledger: i64 = store.connection.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap();
    assert_eq!(ledger, 2);
}

#[test]
fn every_connection_of_the_controller_has_its_own_number() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    assert_eq!([store.next_connection().unwrap(), store.next_connection().unwrap()], [1, 2]);
}
