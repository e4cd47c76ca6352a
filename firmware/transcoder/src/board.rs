//! Where we stand with each orchestrator, for all links to see: the preferred one goes first.
use service::status::OrchestratorLink;
use tokio::sync::watch;

/// Where we stand with an orchestrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A preferred one has us, or is being tried.
    Standby,
    /// It is being tried.
    Connecting,
    /// It has us.
    Attached,
    /// It will be tried again.
    Waiting,
    /// It does not want us; it will be asked again, seldom.
    Refused,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Connecting => "connecting",
            Self::Attached => "attached",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }
}

#[derive(Debug, Clone)]
struct Row {
    address: String,
    state: State,
    error: Option<String>,
    ok: u64,
    failed: u64,
}

/// All orchestrators, the preferred one first. Clones are the same board.
#[derive(Debug, Clone)]
pub(crate) struct Board(watch::Sender<Vec<Row>>);

impl Board {
    pub(crate) fn new(addresses: impl Iterator<Item = String>) -> Self {
        let row = |address| Row { address, state: State::Standby, error: None, ok: 0, failed: 0 };
        Self(watch::Sender::new(addresses.map(row).collect()))
    }

    /// Where we stand with this one now; an error stays until it has us.
    pub(crate) fn set(&self, rank: usize, state: State, error: Option<String>) {
        self.0.send_modify(|rows| {
            if let Some(row) = rows.get_mut(rank) {
                row.state = state;
                if error.is_some() || state == State::Attached {
                    row.error = error;
                }
            }
        });
    }

    /// A segment of this one is over.
    pub(crate) fn count(&self, rank: usize, ok: bool) {
        self.0.send_modify(|rows| {
            if let Some(row) = rows.get_mut(rank) {
                let counter = if ok { &mut row.ok } else { &mut row.failed };
                *counter += 1;
            }
        });
    }

    /// Waits until all preferred ones have been tried in vain. Cancel safe.
    pub(crate) async fn my_turn(&self, rank: usize) {
        let vain = |row: &Row| matches!(row.state, State::Waiting | State::Refused);
        self.when(|rows| rows.iter().take(rank).all(vain)).await;
    }

    /// Waits until a preferred one has us. Cancel safe.
    pub(crate) async fn outranked(&self, rank: usize) {
        self.when(|rows| rows.iter().take(rank).any(|row| row.state == State::Attached)).await;
    }

    async fn when(&self, mut what: impl FnMut(&[Row]) -> bool) {
        // The board holds its own sender, so this ends only when it is true.
        let waited = self.0.subscribe().wait_for(|rows| what(rows)).await.map(drop);
        debug_assert!(waited.is_ok(), "the board outlives who waits for it");
    }

    pub(crate) fn status(&self) -> Vec<OrchestratorLink> {
        let told = |row: &Row| OrchestratorLink {
            address: row.address.clone(),
            state: row.state.word().to_owned(),
            error: row.error.clone(),
            segments_ok: row.ok,
            segments_failed: row.failed,
        };
        self.0.borrow().iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_second_is_tried_when_the_first_was_and_left_when_it_is_back() {
        let board = Board::new(["one".to_owned(), "two".to_owned()].into_iter());
        assert!(board.my_turn(0).now_or_never().is_some());
        for state in [State::Standby, State::Connecting, State::Attached] {
            board.set(0, state, None);
            assert!(board.my_turn(1).now_or_never().is_none(), "{state:?}");
        }
        for state in [State::Waiting, State::Refused] {
            board.set(0, state, Some("why".into()));
            assert!(board.my_turn(1).now_or_never().is_some(), "{state:?}");
        }
        board.set(1, State::Attached, None);
        board.set(0, State::Connecting, None);
        assert!(board.outranked(1).now_or_never().is_none());
        assert_eq!(board.status()[0].error.as_deref(), Some("why"));
        board.set(0, State::Attached, None);
        assert!(board.outranked(1).now_or_never().is_some() && board.outranked(0).now_or_never().is_none());
        assert_eq!(board.status()[0].error, None);
    }
}
