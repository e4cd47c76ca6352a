//! Ctrl-C: the first one asks to come to an end, the second one does not ask.
use std::future::Future;

use tokio::sync::watch;

/// What a shell says of a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Begins to listen for Ctrl-C. Both futures are ready with the first one.
pub(crate) fn on_ctrl_c() -> (impl Future<Output = ()> + Send, impl Future<Output = ()> + Send) {
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            // Then there is no stopping but the hard one.
            return std::future::pending().await;
        }
        tell.send_replace(true);
        eprintln!("millrace: stopping; waiting for what is on its way");
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(INTERRUPTED);
        }
    });
    (wait(told.clone()), wait(told))
}

async fn wait(mut told: watch::Receiver<bool>) {
    if told.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
