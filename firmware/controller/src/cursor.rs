//! How far a durable class of one box is stored without a hole: pure.
//!
//! A record names the record before it (`previous`); what lies between does not exist on the box. So a record closes the
//! row as soon as everything up to its predecessor is stored, even across numbers that were never used.

use std::collections::BTreeMap;

/// Records beyond a hole that are kept; more are not stored and come again after the box is asked.
pub(crate) const AHEAD_MAX: usize = 1024;

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new: store it.
    Store,
    /// It is stored already.
    Duplicate,
    /// Too far ahead of a hole to keep.
    TooFar,
}

/// The cursor of one class of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    stored: u64,
    ahead: BTreeMap<u64, u64>,
}

impl Cursor {
    /// Continue from the store: the cursor, and the records beyond it as (`q`, previous).
    pub(crate) fn load(stored: u64, ahead: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut cursor = Self { stored, ahead: ahead.into_iter().collect() };
        cursor.close();
        cursor
    }

    /// Everything up to here is stored.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// Records that wait behind a hole.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// The largest sequence stored, behind a hole or not.
    pub(crate) fn newest(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.stored, |(q, _)| *q)
    }

    /// Take the record `q` whose predecessor is `previous`.
    pub(crate) fn take(&mut self, q: u64, previous: u64) -> Verdict {
        if q <= self.stored || self.ahead.contains_key(&q) {
            return Verdict::Duplicate;
        }
        if previous > self.stored && self.ahead.len() >= AHEAD_MAX {
            return Verdict::TooFar;
        }
        self.ahead.insert(q, previous.min(q.saturating_sub(1)));
        self.close();
        Verdict::Store
    }

    fn close(&mut self) {
        while let Some((q, previous)) = self.ahead.first_key_value().map(|(q, previous)| (*q, *previous)) {
            if previous > self.stored {
                break;
            }
            self.ahead.pop_first();
            self.stored = self.stored.max(q);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hole_holds_the_cursor_until_it_is_filled() {
        let mut cursor = Cursor::default();
        assert_eq!([cursor.take(1, 0), cursor.take(3, 2), cursor.take(4, 3)], [Verdict::Store; 3]);
        assert_eq!((cursor.stored(), cursor.ahead()), (1, 2));
        assert_eq!(cursor.take(3, 2), Verdict::Duplicate);
        assert_eq!(cursor.take(2, 1), Verdict::Store);
        assert_eq!((cursor.stored(), cursor.ahead()), (4, 0));
        assert_eq!(cursor.take(4, 3), Verdict::Duplicate);
    }

    #[test]
    fn numbers_the_box_never_used_are_no_hole() {
        let mut cursor = Cursor::default();
        cursor.take(1, 0);
        assert_eq!(cursor.take(9, 1), Verdict::Store);
        assert_eq!(cursor.stored(), 9);
        let mut fresh = Cursor::default();
        fresh.take(500, 0);
        assert_eq!(fresh.stored(), 500);
    }

    #[test]
    fn records_beyond_a_hole_are_bounded() {
        let mut cursor = Cursor::default();
        for q in 0..AHEAD_MAX as u64 {
            assert_eq!(cursor.take(q + 2, q + 1), Verdict::Store);
        }
        assert_eq!(cursor.take(9_999, 9_998), Verdict::TooFar);
        assert_eq!(cursor.take(1, 0), Verdict::Store);
        assert_eq!(cursor.ahead(), 0);
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_stores_each_record_once_and_ends_at_the_last(
            mut steps in proptest::collection::vec(1u64..5, 1..40),
            shuffle in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let mut q = 0;
            for step in &mut steps {
                q += *step;
                *step = q;
            }
            let records: Vec<(u64, u64)> = steps.iter().scan(0, |last, q| Some((*q, std::mem::replace(last, *q)))).collect();
            let mut cursor = Cursor::default();
            let mut stored = std::collections::BTreeSet::new();
            let order = shuffle.iter().map(|index| *index.get(&records)).chain(records.iter().copied());
            for (q, previous) in order {
                if cursor.take(q, previous) == Verdict::Store {
                    prop_assert!(stored.insert(q), "{q} stored twice");
                }
                let whole = records.iter().filter(|(q, _)| *q <= cursor.stored()).all(|(q, _)| stored.contains(q));
                prop_assert!(whole, "cursor passed a record that is not stored");
                let reloaded = Cursor::load(
                    cursor.stored(),
                    records.iter().copied().filter(|(q, _)| *q > cursor.stored() && stored.contains(q)),
                );
                prop_assert_eq!(&reloaded, &cursor);
            }
            prop_assert_eq!((cursor.stored(), cursor.ahead()), (q, 0));
        }
    }
}
