//! One line for an error and everything behind it.
use std::error::Error;

/// An error's text and those of its causes, without repeating what a cause says again.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{says}")]
    struct Layer {
        says: &'static str,
        #[source]
        below: Option<Box<Layer>>,
    }

    fn over(says: &'static str, below: Option<Layer>) -> Layer {
        Layer { says, below: below.map(Box::new) }
    }

    #[test]
    fn every_cause_is_told_once() {
        let error = over("no segment: timed out", Some(over("timed out", Some(over("peer is silent", None)))));
        assert_eq!(with_causes(&error), "no segment: timed out: peer is silent");
    }
}
