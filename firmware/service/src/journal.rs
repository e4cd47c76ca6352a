//! Logging: the journal where there is one, standard error otherwise.
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The filter in force, once logging has started.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why what is logged was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// The text is no filter.
    #[error("not a log filter: expected `level,crate=level`, such as `info` or `warn,orchestrator=debug`")]
    Syntax(#[source] tracing_subscriber::filter::ParseError),
    /// Logging has not started here.
    #[error("logging has not started")]
    NotStarted,
}

/// Starts logging under this name.
///
/// Under systemd (`JOURNAL_STREAM` is set) fields go to the journal as `F_…`; anywhere else lines go to
/// standard error, coloured on a terminal. `MILLRACE_LOG` holds the filter (`info` by default), in
/// the syntax `level,crate=level`. A second call does nothing.
pub fn init_journal(name: &str) {
    let filter = EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let journal = std::env::var_os("JOURNAL_STREAM")
        .and_then(|_| tracing_journald::layer().ok())
        .map(|layer| layer.with_syslog_identifier(name.to_owned()));
    let stderr = journal.is_none().then(|| {
        fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(std::io::stderr().is_terminal())
    });
    let registry = tracing_subscriber::registry().with(filter).with(journal).with(stderr);
    if registry.try_init().is_err() {
        tracing::debug!("logging was already started");
        return;
    }
    FILTER.get_or_init(|| handle);
}

/// What is logged now; empty before logging has started.
#[must_use]
pub fn log_filter() -> String {
    FILTER.get().and_then(|filter| filter.with_current(ToString::to_string).ok()).unwrap_or_default()
}

/// Changes what is logged, until the process ends.
///
/// # Errors
/// [`LogFilterError`]; then nothing changed.
pub fn set_log_filter(text: &str) -> Result<(), LogFilterError> {
    let filter = EnvFilter::builder().parse(text).map_err(LogFilterError::Syntax)?;
    let handle = FILTER.get().ok_or(LogFilterError::NotStarted)?;
    handle.reload(filter).map_err(|_| LogFilterError::NotStarted)
}
