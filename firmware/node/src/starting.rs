//! Before signer and chain have answered: the status is told all the same. A box whose site has lost its network can then
//! still say that its workers work and its ledger is open, which is all that its health gate asks
//! (`docs/updates.md`).
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use orchestrator::pool::Pool;
use service::status::NodeStatus;
use tokio::sync::watch;

use crate::build::{self, NodeError};
use crate::run::{Tasks, early};

/// How often the status is put together.
const REFRESH: Duration = Duration::from_secs(1);

/// Does `work`, and tells the status meanwhile; `ledger` says whether that is open by now.
///
/// # Errors
/// What `work` says; that the status cannot be served; that a task ended.
pub(crate) async fn meanwhile<T>(
    path: PathBuf,
    pool: &Pool,
    tasks: &mut Tasks,
    ledger: watch::Receiver<bool>,
    work: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    let workers = build::workers_status(pool);
    let (publish, status) = watch::channel(NodeStatus::default());
    let told = async {
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            let mut status = NodeStatus {
                version: service::system_version(env!("CARGO_PKG_VERSION")),
                mode: "starting".to_owned(),
                network: "onchain".to_owned(),
                ledger: if *ledger.borrow() { "open" } else { "waiting" }.to_owned(),
                ..NodeStatus::default()
            };
            workers(&mut status);
            publish.send_replace(status);
            refresh.tick().await;
        }
    };
    tokio::select! {
        done = work => done,
        () = told => Err(NodeError::TaskEnded("status")),
        served = service::status::serve_status(&path, status) => match served {
            Ok(never) => match never {},
            Err(source) => Err(NodeError::Status { path: path.clone(), source }),
        },
        ended = tasks.next() => Err(early(ended)),
    }
}
