//! The socket: who may ask, how long, how much.
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use service::Heartbeat;
use signer_protocol::frame::{self, FrameError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::desk::Desk;

/// How often the server shows that it is alive.
pub(crate) const BEAT: Duration = Duration::from_secs(3);
/// How long a request may take to arrive once it has begun, and an answer to leave.
const EXCHANGE: Duration = Duration::from_secs(5);
/// How long a connection may be silent; the client connects again by itself.
const IDLE: Duration = Duration::from_secs(600);

/// Why the server cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The socket cannot be made.
    #[error("socket {path} cannot be made")]
    Bind {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Something else lies where the socket should be.
    #[error("{0} exists and is not a socket: remove it or name another path")]
    InTheWay(PathBuf),
    /// Connections cannot be taken any more.
    #[error("socket broke")]
    Accept(#[source] std::io::Error),
}

/// Makes the socket, open to its user and group; a socket left by an earlier run is replaced.
pub(crate) fn listen(config: &Config) -> Result<UnixListener, ServerError> {
    let path = &config.socket;
    let bind = |source| ServerError::Bind { path: path.clone(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(bind)?,
        Ok(_) => return Err(ServerError::InTheWay(path.clone())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(bind(error)),
    }
    let listener = UnixListener::bind(path).map_err(bind)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(bind)?;
    Ok(listener)
}

/// Serves for ever; returns only the error that ended it.
pub(crate) async fn run(
    listener: UnixListener,
    desk: Arc<Desk>,
    allowed: Vec<u32>,
    max_connections: usize,
    heartbeat: Heartbeat,
) -> ServerError {
    let permits = Arc::new(Semaphore::new(max_connections));
    let mut connections = JoinSet::new();
    let mut beat = tokio::time::interval(BEAT);
    loop {
        // The permit comes before the connection, so that those we cannot serve wait outside.
        let taken = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            _ = beat.tick() => heartbeat.beat(),
            Some(_) = connections.join_next() => {}
            (permit, accepted) = taken => match accepted {
                Ok((stream, _)) if is_allowed(&stream, &allowed) => {
                    let desk = Arc::clone(&desk);
                    connections.spawn(async move {
                        serve(stream, &desk).await;
                        drop(permit);
                    });
                }
                Ok(_) => {}
                Err(error) => return ServerError::Accept(error),
            },
        }
    }
}

/// Does the kernel say that an allowed user is at the other end?
fn is_allowed(stream: &UnixStream, allowed: &[u32]) -> bool {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    match getsockopt(&stream.as_fd(), PeerCredentials) {
        Ok(peer) if allowed.contains(&peer.uid()) => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "connection of a user who may not ask was closed");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "connection of an unknown user was closed");
            false
        }
    }
}

async fn serve(mut stream: UnixStream, desk: &Desk) {
    loop {
        match exchange(&mut stream, desk).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "connection ended");
                return;
            }
        }
    }
}

/// One request and its answer; false at the end of the connection.
async fn exchange(stream: &mut UnixStream, desk: &Desk) -> Result<bool, FrameError> {
    let Some(body) = read(stream).await? else { return Ok(false) };
    let (answer, more) = match frame::decode(&body) {
        Ok(request) => (desk.answer(request), true),
        Err(_) => (desk.malformed(), false),
    };
    let bytes = frame::encode(&answer)?;
    in_time(EXCHANGE, stream.write_all(&bytes)).await?;
    Ok(more)
}

/// The body of the next frame; `None` when the peer is gone or silent.
async fn read(stream: &mut UnixStream) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0; 4];
    match tokio::time::timeout(IDLE, stream.read(&mut header[..1])).await {
        Err(_) | Ok(Ok(0)) => return Ok(None),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(error.into()),
    }
    let rest = async {
        stream.read_exact(&mut header[1..]).await?;
        let length = frame::body_length(header).map_err(std::io::Error::other)?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(body)
    };
    Ok(Some(in_time(EXCHANGE, rest).await?))
}

async fn in_time<T>(limit: Duration, step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
