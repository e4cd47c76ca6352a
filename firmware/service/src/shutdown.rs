//! Stopping: the first signal drains, the second one ends at once.
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A daemon's end, as seen by its tasks.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT: the first cancels the token, the second ends the process with 130.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn on_signals() -> std::io::Result<Self> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = Self::default();
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                if first {
                    tracing::info!("stopping; a second signal stops at once");
                    token.cancel();
                } else {
                    std::process::exit(130);
                }
            }
        });
        Ok(shutdown)
    }

    /// The token itself, to hand to tasks.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits for the end. Cancel safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Begins the end.
    pub fn request(&self) {
        self.token.cancel();
    }
}
