//! Crash and fault simulations: processes killed, writes dropped, disks filled.

mod ledger;
mod powercut;
mod redemption;
