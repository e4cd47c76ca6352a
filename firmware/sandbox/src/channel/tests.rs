use std::fs::File;
use std::path::Path;
use std::thread;

use livepeer::profile::preset;

use super::*;
use crate::message::{JobError, Limits, Signatures};

fn job() -> Job {
    let profiles = vec![preset("360p").unwrap()];
    let limits = Limits::default();
    let signatures = Signatures::None;
    Job {
        id: 3,
        profiles,
        clip: None,
        limits,
        threads: 1,
        service_provider: "test".into(),
        signatures,
        video_seen: false,
    }
}

fn failed(detail: String) -> Report {
    Report::Failed { id: 3, error: JobError::InvalidVideo, detail }
}

/// Sends any bytes with any number of descriptors, as a worker that has been taken over may.
fn send_raw(channel: &Channel, bytes: &[u8], descriptors: usize) {
    send_raw_of(channel, bytes, &File::open("/dev/null").unwrap(), descriptors);
}

fn send_raw_of(channel: &Channel, bytes: &[u8], file: &File, descriptors: usize) {
    let numbers = vec![file.as_raw_fd(); descriptors];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if descriptors == 0 { &[] } else { &rights };
    let iov = [IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(channel.socket.as_raw_fd(), &iov, control, MsgFlags::empty(), None).unwrap();
}

/// Descriptors of this process that are open on this file; other tests open others meanwhile.
fn open_on(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links.filter(|link| std::fs::read_link(link.path()).is_ok_and(|to| to == path)).count()
}

#[test]
fn a_job_and_its_segment_arrive_together() {
    let (node, worker) = Channel::pair().unwrap();
    let segment = Sealed::from_bytes(b"film").unwrap();
    node.send_job(&job(), segment.as_fd()).unwrap();
    let (got, media) = worker.receive_job().unwrap().unwrap();
    assert_eq!(got, job());
    assert_eq!(media.to_vec().unwrap(), b"film");
}

#[test]
fn a_report_brings_its_renditions_in_order() {
    let (node, worker) = Channel::pair().unwrap();
    let (first, second) = (Sealed::from_bytes(b"1").unwrap(), Sealed::from_bytes(b"22").unwrap());
    worker.report(&failed("x".into()), &[first.as_fd(), second.as_fd()]).unwrap();
    let (report, descriptors) = node.receive_report(Duration::from_secs(5)).unwrap();
    assert_eq!(report, failed("x".into()));
    let lengths: Vec<u64> = descriptors.into_iter().map(|fd| Sealed::adopt(fd, 10).unwrap().len()).collect();
    assert_eq!(lengths, [1, 2]);
}

#[test]
fn a_closed_channel_ends_the_worker_and_is_told_to_the_node() {
    let (node, worker) = Channel::pair().unwrap();
    drop(node);
    assert!(worker.receive_job().unwrap().is_none());
    let (node, worker) = Channel::pair().unwrap();
    drop(worker);
    assert!(matches!(node.receive_report(Duration::from_secs(5)), Err(ChannelError::Closed)));
    let segment = Sealed::from_bytes(b"").unwrap();
    assert!(matches!(node.send_job(&job(), segment.as_fd()), Err(ChannelError::Closed)));
}

#[test]
fn silence_ends_at_the_deadline() {
    let (node, _worker) = Channel::pair().unwrap();
    let deadline = Duration::from_millis(20);
    assert!(matches!(node.receive_report(deadline), Err(ChannelError::Timeout(said)) if said == deadline));
}

#[test]
fn garbage_is_refused() {
    let (node, worker) = Channel::pair().unwrap();
    for garbage in [b"{}".as_slice(), b"\xff\xfe", b"[1]", b"{\"Done\":{\"id\":1}}"] {
        send_raw(&worker, garbage, 0);
        assert!(matches!(node.receive_report(Duration::from_secs(5)), Err(ChannelError::Malformed(_))));
    }
}

#[test]
fn a_record_over_the_bound_is_refused_on_both_sides() {
    let (node, worker) = Channel::pair().unwrap();
    let too_long = failed("x".repeat(MAX_RECORD));
    assert!(matches!(worker.report(&too_long, &[]), Err(ChannelError::RecordTooLong)));
    send_raw(&worker, &vec![b' '; MAX_RECORD + 1], 0);
    assert!(matches!(node.receive_report(Duration::from_secs(5)), Err(ChannelError::RecordTooLong)));
}

#[test]
fn a_flood_of_descriptors_is_refused_and_none_stays_open() {
    let (node, worker) = Channel::pair().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    send_raw_of(&worker, &serde_json::to_vec(&failed("x".into())).unwrap(), file.as_file(), 253);
    let refused = node.receive_report(Duration::from_secs(5));
    assert!(matches!(refused, Err(ChannelError::TooManyDescriptors(253))), "{refused:?}");
    assert_eq!(open_on(file.path()), 1, "the test's own");
}

#[test]
fn a_job_without_exactly_one_sealed_segment_is_refused() {
    let (node, worker) = Channel::pair().unwrap();
    let record = serde_json::to_vec(&job()).unwrap();
    send_raw(&node, &record, 0);
    assert!(matches!(worker.receive_job(), Err(ChannelError::WrongDescriptors { got: 0, wanted: 1 })));
    send_raw(&node, &record, 2);
    assert!(matches!(worker.receive_job(), Err(ChannelError::WrongDescriptors { got: 2, wanted: 1 })));
    send_raw(&node, &record, 1);
    assert!(matches!(worker.receive_job(), Err(ChannelError::Segment(MemfdError::NotSealed))));
}

#[test]
fn ten_long_profiles_fit_one_record() {
    let mut large = job();
    let mut profile = preset("720p").unwrap();
    profile.name = "n".repeat(256);
    large.profiles = vec![profile; 10];
    let (node, worker) = Channel::pair().unwrap();
    let segment = Sealed::from_bytes(b"").unwrap();
    let sender = thread::spawn(move || node.send_job(&large, segment.as_fd()));
    assert_eq!(worker.receive_job().unwrap().unwrap().0.profiles.len(), 10);
    sender.join().unwrap().unwrap();
}
