//! The shell of every daemon: journal, notify, stop, status socket, exit codes.
//!
//! A daemon's `main` reads as a story: parse, log, configure, build, notify ready, wait, drain.

mod causes;
mod credentials;
mod crypto;
mod exit;
mod image;
mod journal;
mod mutual_tls;
mod notify;
mod peer_tls;
mod restart;
mod shutdown;
pub mod status;

pub use causes::with_causes;
pub use credentials::{CredentialError, Secret, given_secret, secret_file};
pub use crypto::init_crypto;
pub use exit::{Exit, ExitReason};
pub use image::{OS_RELEASE, image_version, system_version};
pub use journal::{LogFilterError, init_journal, log_filter, set_log_filter};
pub use mutual_tls::{MutualTls, TlsError};
pub use notify::{Heartbeat, Heartbeats, notify_ready, notify_status, notify_stopping};
pub use peer_tls::{tls_client, tls_to_peer};
pub use restart::{Restart, RestartState};
pub use shutdown::Shutdown;
