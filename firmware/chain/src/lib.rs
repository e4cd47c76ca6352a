//! The contracts as a Broker
