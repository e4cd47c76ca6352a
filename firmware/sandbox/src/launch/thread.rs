//! The one thread that starts workers.
//!
//! The kernel sends a death signal when the *thread* that forked ends, not the process. Threads of a pool
//! come and go; this one lives as long as the process.
use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// Starts under way at once before callers wait for their turn.
const QUEUE: usize = 4;

/// A command to start and where to answer.
type Order = (Command, SyncSender<io::Result<Child>>);

static STARTER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();

/// Starts `command` from the thread that never ends.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let gone = || io::Error::other("the thread that starts workers is gone");
    let (answer, child) = sync_channel(1);
    let starter = STARTER.get_or_init(|| {
        let (orders, queue) = sync_channel::<Order>(QUEUE);
        let body = move || {
            for (mut command, answer) in queue {
                // A caller that went away takes its worker with it: the child is killed below.
                if let Err(unwanted) = answer.send(command.spawn()) {
                    end(unwanted.0);
                }
            }
        };
        // Without the thread every order is answered by the error above.
        let _ = thread::Builder::new().name("worker-starter".to_owned()).spawn(body);
        Mutex::new(orders)
    });
    let orders = starter.lock().unwrap_or_else(PoisonError::into_inner).clone();
    orders.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn end(started: io::Result<Child>) {
    if let Ok(mut child) = started {
        let _ = child.kill();
        let _ = child.wait();
    }
}
