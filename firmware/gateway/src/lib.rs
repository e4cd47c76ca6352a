//! A paying gateway: find an orchestrator, pay it, use it
