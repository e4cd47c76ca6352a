//! Serve gateways: sessions, admission, worker pool, redemption driver
