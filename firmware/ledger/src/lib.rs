//! What we are owed, durably
