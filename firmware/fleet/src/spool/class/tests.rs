use serde_json::json;

use super::*;

fn policy(when_full: WhenFull) -> Policy {
    Policy { cap: 1 << 20, sync_after: None, when_full, keep_acked: None }
}

fn open(dir: &Path) -> (ClassSpool, Opened) {
    ClassSpool::open(dir, "A", policy(WhenFull::Coalesce)).unwrap()
}

fn put(spool: &mut ClassSpool, text: &str) -> u64 {
    spool.append(0, text.as_bytes().to_vec(), Instant::now()).unwrap()
}

fn drain(spool: &mut ClassSpool) -> Vec<(u64, u64, String)> {
    let mut all = Vec::new();
    let mut cursor = 0;
    while let Some((record, previous)) = spool.next_after(cursor, |_| true).unwrap() {
        cursor = record.q;
        all.push((record.q, previous, String::from_utf8(record.body).unwrap()));
    }
    all
}

#[test]
fn records_come_back_in_order_after_a_reopen_with_the_sequence_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    assert_eq!([put(&mut spool, "a"), put(&mut spool, "b")], [1, 2]);
    drop(spool);
    let (mut spool, opened) = open(dir.path());
    assert_eq!(opened, Opened::default());
    assert_eq!(put(&mut spool, "c"), 3);
    assert_eq!(drain(&mut spool), [(1, 0, "a".into()), (2, 1, "b".into()), (3, 2, "c".into())]);
}

#[test]
fn only_an_acknowledgement_deletes_and_a_sequence_is_never_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    for i in 0..5 {
        put(&mut spool, &i.to_string());
    }
    drain(&mut spool);
    assert_eq!(drain(&mut spool).len(), 5, "handing out deletes nothing");
    spool.ack(3).unwrap();
    assert_eq!(drain(&mut spool).len(), 2);
    spool.ack(99).unwrap();
    assert_eq!((drain(&mut spool).len(), spool.acked()), (0, 5));
    assert_eq!(list(dir.path()).unwrap(), Vec::<u64>::new());
    drop(spool);
    let (mut spool, _) = open(dir.path());
    assert_eq!(put(&mut spool, "next"), 6);
    assert_eq!(drain(&mut spool), [(6, 0, "next".into())]);
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    put(&mut spool, "first");
    put(&mut spool, "second");
    drop(spool);
    let path = dir.path().join(format!("{:016x}.seg", 1));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (mut spool, opened) = open(dir.path());
    assert!(opened.torn > 0 && opened.lost.is_none());
    let q = put(&mut spool, "again");
    assert!(q > 2, "the interrupted number is not used again");
    drop(spool);
    let (mut spool, opened) = open(dir.path());
    assert_eq!(opened, Opened::default());
    assert_eq!(drain(&mut spool), [(1, 0, "first".into()), (q, 1, "again".into())]);
}

#[test]
fn a_flipped_bit_is_reported_as_lost_set_aside_and_its_sequence_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    put(&mut spool, "first");
    put(&mut spool, "second");
    drop(spool);
    let path = dir.path().join(format!("{:016x}.seg", 1));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (mut spool, opened) = open(dir.path());
    assert_eq!(opened.lost, Some((2, 2)));
    assert!(dir.path().join("quarantine").join(path.file_name().unwrap()).exists());
    let q = put(&mut spool, "third");
    assert!(q > 2);
    assert_eq!(drain(&mut spool), [(1, 0, "first".into()), (q, 1, "third".into())]);
}

#[test]
fn a_damaged_record_in_a_middle_segment_is_the_only_one_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    let big = "x".repeat(20_000);
    for _ in 0..20 {
        put(&mut spool, &big);
    }
    let firsts = list(dir.path()).unwrap();
    assert!(firsts.len() >= 3, "{firsts:?}");
    drop(spool);
    let path = dir.path().join(format!("{:016x}.seg", firsts[1]));
    let mut bytes = fs::read(&path).unwrap();
    bytes[30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (mut spool, opened) = open(dir.path());
    assert_eq!(opened.lost, Some((firsts[1], firsts[1])));
    let left = drain(&mut spool);
    assert_eq!(left.len(), 19);
    let (_, previous, _) = left.iter().find(|(q, ..)| *q == firsts[1] + 1).unwrap();
    assert_eq!(*previous, firsts[1] - 1, "the next record names the one before the hole");
    assert_eq!(put(&mut spool, "next"), 21);
}

#[test]
fn a_wholly_unreadable_segment_loses_its_range_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    for _ in 0..20 {
        put(&mut spool, &"x".repeat(20_000));
    }
    let firsts = list(dir.path()).unwrap();
    drop(spool);
    let path = dir.path().join(format!("{:016x}.seg", firsts[1]));
    fs::write(&path, vec![0x55; 1000]).unwrap();
    let (mut spool, opened) = open(dir.path());
    assert_eq!(opened.lost, Some((firsts[1], firsts[2] - 1)));
    assert_eq!(drain(&mut spool).len() as u64, 20 - (firsts[2] - firsts[1]));
}

#[test]
fn a_damaged_cursor_without_segments_asks_for_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    put(&mut spool, "a");
    spool.ack(1).unwrap();
    drop(spool);
    fs::write(dir.path().join("cursor"), b"{").unwrap();
    let (_, opened) = open(dir.path());
    assert!(opened.sequence_lost);
}

#[test]
fn a_full_ledger_refuses_and_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { cap: 1000, ..policy(WhenFull::Refuse) };
    let (mut spool, _) = ClassSpool::open(dir.path(), "L", policy).unwrap();
    let mut stored = 0;
    while spool.append(0, vec![b'x'; 100], Instant::now()).is_ok() {
        stored += 1;
    }
    assert!(matches!(spool.append(0, vec![b'x'; 100], Instant::now()), Err(SpoolError::Full("L"))));
    assert_eq!((drain(&mut spool).len(), stored), (8, 8));
}

#[test]
fn an_acknowledged_ledger_segment_stays_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { keep_acked: Some(Duration::from_secs(3600)), ..policy(WhenFull::Refuse) };
    let (mut spool, _) = ClassSpool::open(dir.path(), "L", policy).unwrap();
    put(&mut spool, "won");
    spool.ack(1).unwrap();
    assert!(drain(&mut spool).is_empty());
    assert_eq!(list(dir.path()).unwrap(), [1]);
    assert_eq!(spool.newest().unwrap().unwrap(), b"won");
}

#[test]
fn full_events_fold_closed_alarms_and_never_a_grave_one() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { cap: 4000, ..policy(WhenFull::Coalesce) };
    let (mut spool, _) = ClassSpool::open(dir.path(), "A", policy).unwrap();
    let event = |op: &str, i: u64| {
        json!({"body": {"id": "CPU-TEMP-HIGH", "op": op, "inst": format!("{i}")}}).to_string().into_bytes()
    };
    let crit = spool.append(3, event("raise", 0), Instant::now()).unwrap();
    for i in 1..60 {
        spool.append(1, event("raise", i), Instant::now()).unwrap();
        spool.append(1, event("clear", i), Instant::now()).unwrap();
    }
    assert!(spool.bytes() <= 4000);
    let left = drain(&mut spool);
    assert_eq!(left.first().unwrap().0, crit);
    assert_eq!(left.last().unwrap().0, 119);
    assert!(left.windows(2).all(|pair| pair[1].1 == pair[0].0), "each record names the one before it");
    drop(spool);
    let (mut spool, opened) = ClassSpool::open(dir.path(), "A", policy).unwrap();
    assert_eq!((opened, drain(&mut spool)), (Opened::default(), left));
}

#[test]
fn unsynced_records_are_synced_when_due_and_before_they_are_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy { sync_after: Some(Duration::from_secs(60)), ..policy(WhenFull::Thin) };
    let (mut spool, _) = ClassSpool::open(dir.path(), "E", policy).unwrap();
    let start = Instant::now();
    spool.append(0, b"{}".to_vec(), start).unwrap();
    assert!(spool.unsynced_since.is_some());
    spool.sync_if_due(start + Duration::from_secs(59)).unwrap();
    assert!(spool.unsynced_since.is_some());
    spool.sync_if_due(start + Duration::from_secs(60)).unwrap();
    assert!(spool.unsynced_since.is_none());
    spool.append(0, b"{}".to_vec(), start).unwrap();
    drain(&mut spool);
    assert!(spool.unsynced_since.is_none());
}
