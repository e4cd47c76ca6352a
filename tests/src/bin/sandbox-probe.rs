//! A program that enters the jail as a worker does and then tries what a worker must not be able to do.
//!
//! What to try comes in the `service_provider` of a job: `NAME` or `NAME ARGUMENT`. It answers with
//! [`Report::Failed`] and a detail of `refused: ERRNO` or `SUCCEEDED …`; some attempts it does not live to
//! tell about. `echo` behaves as a good worker does. With `--jail-only` it leaves the last lock open, so that
//! the jail itself can be tested.
#![expect(unsafe_code, reason = "an attacker uses raw system calls")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{IoSlice, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use livepeer::units::Pixels;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, UnixAddr, sendmsg};
use sandbox::channel::Channel;
use sandbox::jail::{JailPlan, ProcessLimits};
use sandbox::launch::{LaunchPlan, launch};
use sandbox::memfd::{Sealed, Writer};
use sandbox::message::{Done, Job, JobError, Ready, Rendition, Report, Spent};
use sandbox::{jail, lockdown};

/// The node's process id, asked for while one may still ask.
static PARENT: OnceLock<i32> = OnceLock::new();

fn main() {
    PARENT.get_or_init(|| nix::unistd::getppid().as_raw());
    let mode = std::env::args().nth(1).unwrap_or_default();
    if mode == "--node" {
        return be_a_node();
    }
    let channel = match Channel::from_inherited() {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(64);
        }
    };
    let plan = channel.receive_plan().expect("the node sends a plan first");
    if mode == "--unfit" {
        let reason = "no encoder here: install one".to_owned();
        channel.report(&Report::Unfit { reason }, &[]).expect("the node listens");
        return;
    }
    if mode == "--hang" {
        loop {
            std::thread::park();
        }
    }
    let mut layers = jail::enter(&plan).expect("the jail can be entered");
    // A thread made before the last lock must be locked too.
    let (orders, inbox) = std::sync::mpsc::channel::<(Job, Sealed)>();
    let (answers, outbox) = std::sync::mpsc::channel::<String>();
    std::thread::spawn(move || {
        for (job, media) in inbox {
            let _ = answers.send(attempt(&job, &media, 0));
        }
    });
    if mode != "--jail-only" {
        lockdown::seal(&mut layers).expect("the lock can be closed");
    }
    let ready = Ready {
        engine: "probe".to_owned(),
        proved: vec!["echo".to_owned()],
        refused: Vec::new(),
        layers: layers.active,
        missing_layers: layers.missing,
        framework: "none".to_owned(),
    };
    if channel.report(&Report::Ready(ready), &[]).is_err() {
        // Ended before it was needed.
        return;
    }
    let mut hoard = Vec::new();
    let mut served = 0;
    while let Some((job, media)) = channel.receive_job().expect("jobs are well formed") {
        if job.service_provider == "leak" {
            hoard.push(vec![1u8; 200 << 20]);
        }
        let detail = match job.service_provider.strip_prefix("thread ") {
            None if behave(&channel, &job, &media, served) => None,
            None => Some(attempt(&job, &media, served)),
            Some(rest) => {
                let job = Job { service_provider: rest.to_owned(), ..job.clone() };
                orders.send((job, media)).expect("the thread lives");
                Some(outbox.recv().unwrap_or_else(|_| "the thread died".to_owned()))
            }
        };
        served += 1;
        if let Some(detail) = detail {
            let report = Report::Failed { id: job.id, error: JobError::Internal, detail };
            channel.report(&report, &[]).expect("the node listens");
        }
    }
}

/// Starts a worker as the node does, says its process id, and waits to be killed.
fn be_a_node() {
    let own = std::env::current_exe().expect("a running program has a path");
    let plan = LaunchPlan::software(own, JailPlan::software(ProcessLimits::default()), None);
    let mut worker = launch(&plan).expect("a worker can be started");
    worker.wait_ready(Duration::from_secs(60)).expect("a worker gets ready");
    let mut out = std::io::stdout();
    writeln!(out, "{}", worker.pid()).and_then(|()| out.flush()).expect("the test reads");
    loop {
        std::thread::park();
    }
}

/// Good and bad ways to answer; `false` when the job is no such thing.
fn behave(channel: &Channel, job: &Job, media: &Sealed, served: u32) -> bool {
    let mut done = honest(job, media);
    let copies: Vec<Sealed> = job.profiles.iter().map(|_| copy(media)).collect();
    let mut descriptors: Vec<BorrowedFd<'_>> = copies.iter().map(Sealed::as_fd).collect();
    match job.service_provider.as_str() {
        "echo" | "leak" => {}
        "crash" => std::process::abort(),
        "crash-unless-fresh" if served > 0 => std::process::abort(),
        "crash-unless-fresh" => {}
        "hang" => loop {
            std::thread::park();
        },
        "slow" => std::thread::sleep(Duration::from_millis(300)),
        // At work for a second, by its own processor time.
        "busy" => {
            let used = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock");
            let begin = Duration::from(used());
            while Duration::from(used()).saturating_sub(begin) < Duration::from_secs(1) {
                std::hint::spin_loop();
            }
        }
        "hang-unless-fresh" if served == 0 => {}
        "hang-unless-fresh" => loop {
            std::thread::park();
        },
        "fail-unless-fresh" if served > 0 => {
            let report = Report::Failed { id: job.id, error: JobError::Internal, detail: "device lost".to_owned() };
            channel.report(&report, &[]).expect("the node listens");
            return true;
        }
        "fail-unless-fresh" => {}
        "refuse" => {
            let report = Report::Failed { id: job.id, error: JobError::InvalidVideo, detail: "as told".to_owned() };
            channel.report(&report, &[]).expect("the node listens");
            return true;
        }
        "lie-pixels" => done.renditions.iter_mut().for_each(|rendition| rendition.pixels = Pixels(u64::MAX)),
        "lie-length" => done.renditions.iter_mut().for_each(|rendition| rendition.bytes += 1),
        "lie-id" => done.id += 1,
        "lie-count" => drop(descriptors.pop()),
        "unsealed" => {
            let mut open = Writer::new(1 << 20).expect("memory");
            open.write_all(&media.to_vec().expect("readable")).expect("memory");
            // The writer's own descriptor is not reachable; a plain memfd stands in for it.
            let plain = nix::sys::memfd::memfd_create(c"open", nix::sys::memfd::MFdFlags::empty()).expect("memory");
            channel.report(&Report::Done(done), &[plain.as_fd()]).expect("the node listens");
            return true;
        }
        "garbage" => {
            let garbage = [IoSlice::new(b"{\"Done\":")];
            let socket = channel.as_fd().as_raw_fd();
            sendmsg::<UnixAddr>(socket, &garbage, &[], MsgFlags::empty(), None).expect("the node listens");
            return true;
        }
        _ => return false,
    }
    channel.report(&Report::Done(done), &descriptors).expect("the node listens");
    true
}

fn copy(media: &Sealed) -> Sealed {
    let mut writer = Writer::new(media.len()).expect("memory");
    writer.append(&media.map().expect("address space")).expect("memory");
    writer.seal().expect("a memfd of ours can be sealed")
}

fn honest(job: &Job, media: &Sealed) -> Done {
    let rendition = || Rendition { width: 640, height: 360, frames: 1, pixels: Pixels(640 * 360), bytes: media.len() };
    Done {
        id: job.id,
        renditions: job.profiles.iter().map(|_| rendition()).collect(),
        decoded_frames: 1,
        decoded_pixels: Pixels(640 * 360),
        duration_ms: 40,
        took_ms: 1,
        cpu_ms: 1,
        peak_rss: 1 << 20,
        signatures: Vec::new(),
        spent: Spent::default(),
    }
}

/// Tries something, and says how it went.
fn attempt(job: &Job, media: &Sealed, _served: u32) -> String {
    let (name, argument) = job.service_provider.split_once(' ').unwrap_or((&job.service_provider, ""));
    let parent = *PARENT.get().expect("asked for at the start");
    match name {
        "read" => told(fs::read(argument).map(|bytes| format!("{} bytes", bytes.len()))),
        "list" => told(fs::read_dir(argument).map(|entries| format!("{} entries", entries.count()))),
        "write" => told(OpenOptions::new().write(true).open(argument)),
        "create" => told(File::create(argument)),
        "remove" => told(fs::remove_file(argument)),
        "connect" => told(TcpStream::connect_timeout(&argument.parse().expect("an address"), Duration::from_secs(2))),
        "exec" => told(Command::new(argument).status()),
        "execve" => {
            let path = CString::new(argument).expect("a path");
            let arguments = [path.as_ptr(), std::ptr::null()];
            let environment = [std::ptr::null()];
            // SAFETY: all three point at data that lives until the call replaces the program or returns.
            told_raw(i64::from(unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) }))
        }
        // SAFETY: plain numbers.
        "socket" => told_raw(i64::from(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) })),
        // SAFETY: plain numbers; attaching without stopping, so that a success does no harm to the test.
        "ptrace" => told_raw(unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) }),
        // SAFETY: plain numbers; signal 0 only asks whether one could be sent.
        "signal" => told_raw(i64::from(unsafe { libc::kill(parent, 0) })),
        // SAFETY: plain numbers.
        "tgsignal" => told_raw(unsafe { libc::syscall(libc::SYS_tgkill, parent, parent, 0) }),
        "own-signal" => {
            // SAFETY: plain numbers; F_SETOWN would have the kernel signal the node on our behalf.
            let owned = unsafe { libc::fcntl(media.as_fd().as_raw_fd(), libc::F_SETOWN, parent) };
            told_raw(i64::from(owned))
        }
        "mount" => {
            let none = None::<&str>;
            told(nix::mount::mount(none, "/proc", Some("tmpfs"), nix::mount::MsFlags::empty(), none))
        }
        "unshare" => told(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
        "fork-bomb" => fork_bomb(),
        "memory-hog" => memory_hog(),
        "descriptors" => {
            let mut open = Vec::new();
            loop {
                match Writer::new(1) {
                    Ok(memfd) => open.push(memfd),
                    Err(_) => return format!("refused: after {}", open.len()),
                }
            }
        }
        "huge-file" => {
            let mut memfd = Writer::new(u64::MAX).expect("memory");
            let chunk = vec![1; 1 << 20];
            loop {
                if memfd.write_all(&chunk).is_err() {
                    return format!("refused: after {}", memfd.len());
                }
            }
        }
        "descriptors-held" => {
            let names = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
            let links: Vec<String> = names
                .filter_map(|name| Some((name.file_name().into_string().ok()?, fs::read_link(name.path()).ok()?)))
                .map(|(number, to)| format!("{number}={}", to.display()))
                .collect();
            links.join(";")
        }
        "environment" => std::env::vars().map(|(key, _)| key).collect::<Vec<_>>().join(" "),
        "identity" => {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let wanted = ["Uid:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
            let lines = status.lines().filter(|line| wanted.iter().any(|start| line.starts_with(start)));
            lines.map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join("; ")
        }
        "threads" => {
            let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| 1)).collect();
            let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum();
            format!("SUCCEEDED with {sum}")
        }
        other => format!("the probe does not know {other:?}"),
    }
}

/// Forks until it is refused; children wait for their death.
fn fork_bomb() -> String {
    let mut children = Vec::new();
    let start = Instant::now();
    let refusal = loop {
        if children.len() >= 2000 || start.elapsed() > Duration::from_secs(20) {
            break "SUCCEEDED".to_owned();
        }
        // SAFETY: the child makes one system call, which waits for a signal, and no other.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: a plain call that waits; the parent's kill ends the child in it.
                unsafe { libc::pause() };
            },
            -1 => break format!("refused: {:?}", Errno::last()),
            child => children.push(child),
        }
    };
    let count = children.len();
    for child in children {
        // SAFETY: plain numbers; a child of ours that has not been waited for.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above; the status is not wanted.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    format!("{refusal} after {count}")
}

/// Takes memory until there is no more; the allocator aborts then.
fn memory_hog() -> String {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4096 {
        hoard.push(vec![1; 16 << 20]);
    }
    format!("SUCCEEDED with {} chunks", hoard.len())
}

fn told<T: std::fmt::Debug, E: Into<std::io::Error>>(result: Result<T, E>) -> String {
    match result.map_err(Into::into) {
        Ok(value) => format!("SUCCEEDED with {value:?}"),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("refused: {:?}", Errno::from_raw(number)),
            None => format!("refused: {error}"),
        },
    }
}

fn told_raw(result: i64) -> String {
    if result == -1 { format!("refused: {:?}", Errno::last()) } else { format!("SUCCEEDED with {result}") }
}
