//! Logging: the journal where there is one, standard error otherwise.
use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging under this name.
///
/// Under systemd (`JOURNAL_STREAM` is set) fields go to the journal as `F_…`; anywhere else lines go to
/// standard error, coloured on a terminal. `MILLRACE_LOG` holds the filter (`info` by default), in
/// the syntax `level,crate=level`. A second call does nothing.
pub fn init_journal(name: &str) {
    let filter = EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .map(|layer| layer.with_syslog_identifier(name.to_owned()));
    let stderr = journal.is_none().then(|| {
        fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(std::io::stderr().is_terminal())
    });
    let registry = tracing_subscriber::registry().with(filter).with(journal).with(stderr);
    if registry.try_init().is_err() {
        tracing::debug!("logging was already started");
    }
}
