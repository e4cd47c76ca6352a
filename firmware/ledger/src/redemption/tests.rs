use proptest::prelude::*;

use super::*;
use crate::fixture::submission;

fn event() -> impl Strategy<Value = RedemptionEvent> {
    prop_oneof![
        (0u64..3, 0u8..6).prop_map(|(nonce, id)| RedemptionEvent::Submitted(submission(nonce, id))),
        (0u8..6).prop_map(|id| RedemptionEvent::Confirmed {
            transaction: submission(0, id).hash,
            block: L2Block(9),
            paid: Wei::from(u64::from(id)),
        }),
        Just(RedemptionEvent::Failed),
        Just(RedemptionEvent::Abandoned(AbandonReason::RoundOver)),
    ]
}

/// The machine in other words: what is out there, what failed, how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    out: Vec<(u64, H256)>,
    failures: u32,
    end: Option<&'static str>,
}

impl Model {
    fn accepts(&mut self, event: &RedemptionEvent) -> bool {
        let open = self.end.is_none();
        match event {
            RedemptionEvent::Submitted(new) => {
                let fits = self.out.iter().all(|(nonce, hash)| *nonce == new.account_nonce && *hash != new.hash);
                if open && fits {
                    self.out.push((new.account_nonce, new.hash));
                }
                open && fits
            }
            RedemptionEvent::Confirmed { transaction, .. } => {
                let ours = open && self.out.iter().any(|(_, hash)| hash == transaction);
                if ours {
                    self.end = Some("confirmed");
                }
                ours
            }
            RedemptionEvent::Failed => {
                let was_out = open && !self.out.is_empty();
                if was_out {
                    self.out.clear();
                    self.failures += 1;
                }
                was_out
            }
            RedemptionEvent::Abandoned(_) => {
                if open {
                    self.end = Some("abandoned");
                }
                open
            }
        }
    }

    fn shows(&self, state: &Redemption) -> bool {
        match state {
            Redemption::Held { failures } => self.end.is_none() && self.out.is_empty() && *failures == self.failures,
            Redemption::Submitted { submission, replaced, failures } => {
                let hashes: Vec<H256> = replaced.iter().copied().chain([submission.hash]).collect();
                self.end.is_none()
                    && *failures == self.failures
                    && self.out.iter().map(|(_, hash)| *hash).collect::<Vec<_>>() == hashes
            }
            Redemption::Confirmed { .. } | Redemption::Abandoned { .. } => self.end == Some(state.name()),
        }
    }
}

proptest! {
    #[test]
    fn it_moves_as_the_model_does_and_never_otherwise(events in proptest::collection::vec(event(), 0..20)) {
        let (mut state, mut model) = (Redemption::NEW, Model::default());
        for event in events {
            match state.advance(&event) {
                Ok(next) => {
                    prop_assert!(model.accepts(&event), "{state:?} took {event:?}");
                    state = next;
                }
                Err(_) => prop_assert!(!model.accepts(&event), "{state:?} refused {event:?}"),
            }
            prop_assert!(model.shows(&state), "{model:?} is not {state:?}");
            let stored = serde_json::to_vec(&state).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Redemption>(&stored).unwrap(), &state);
        }
    }
}

#[test]
fn a_second_account_nonce_is_refused_while_the_first_may_be_mined() {
    let out = Redemption::NEW.advance(&RedemptionEvent::Submitted(submission(1, 1))).unwrap();
    assert!(out.advance(&RedemptionEvent::Submitted(submission(2, 2))).is_err());
    let replaced = out.advance(&RedemptionEvent::Submitted(submission(1, 2))).unwrap();
    let mined =
        RedemptionEvent::Confirmed { transaction: submission(1, 1).hash, block: L2Block(3), paid: Wei::from(1) };
    assert_eq!(replaced.advance(&mined).unwrap().name(), "confirmed", "the replaced one was mined after all");
}

#[test]
fn signed_bytes_are_not_shown() {
    assert!(!format!("{:?}", submission(1, 0xab)).contains("254"));
}
