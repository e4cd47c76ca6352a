//! The way from those who ask to the one thread that does.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;

use crate::ingest::{Ask, AskError, Input, Told};

/// How long the thread may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Hands wishes over.
#[derive(Debug)]
pub(crate) struct Asks {
    /// Taken away when the controller stops, so that the thread sees the end of its queue.
    inputs: Mutex<Option<SyncSender<Input>>>,
}

impl Asks {
    pub(crate) fn new(inputs: SyncSender<Input>) -> Self {
        Self { inputs: Mutex::new(Some(inputs)) }
    }

    /// Nothing is asked from now on.
    pub(crate) fn close(&self) {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ask, and wait until it is durable.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Told, AskError> {
        let busy = || AskError::Busy("the controller is busy: try again".to_owned());
        let (reply, answer) = oneshot::channel();
        let handed = {
            let inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
            match inputs.as_ref().map(|inputs| inputs.try_send(Input::Ask(Box::new(ask), reply))) {
                Some(Ok(())) => true,
                Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
            }
        };
        if !handed {
            return Err(busy());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// What an answer looks like over HTTP.
pub(crate) fn status(error: &AskError) -> StatusCode {
    match error {
        AskError::Bad(_) => StatusCode::BAD_REQUEST,
        AskError::Unknown(_) => StatusCode::NOT_FOUND,
        AskError::Conflict(_) => StatusCode::CONFLICT,
        AskError::Refused => StatusCode::FORBIDDEN,
        AskError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        AskError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
