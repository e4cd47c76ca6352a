//! `millrace-signer`: holds the one hot key, and signs only what its policy allows.
//!
//! Walk 1, step 10 and walk 2, step 6. It speaks over one Unix socket, has no network, and the key never
//! leaves it: neither by an answer, nor by its log, nor by a core dump. What it signs is decided in [`policy`].
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use livepeer::signature::SigningKey;
use service::{Exit, ExitReason, Heartbeats, Shutdown};

mod config;
mod desk;
mod keystore;
mod policy;
mod server;
mod spending;

use config::{Config, Password};

/// Hold the hot key; sign only what the policy allows.
///
/// The key lies in a geth keystore (version 3, scrypt). Its password comes from the systemd credential
/// `keystore-password` or from a file of mode 0600; never from the command line or the environment. The
/// configuration names the socket, who may ask, and for a chain: the contracts that may be called, the caps on
/// gas and fee, and the limit per day.
#[derive(Debug, Parser)]
#[command(name = "millrace-signer", version)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = "/etc/millrace/signer.toml")]
    config: PathBuf,
    /// Check the configuration file and end.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new key in a new keystore file and print its account.
    Init {
        /// The keystore file to make; an existing one is never overwritten.
        #[arg(long, value_name = "FILE")]
        keystore: PathBuf,
        /// The file with the password (mode 0600); made with a random password when it does not exist.
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
        /// Spend less work on guarding the key: for throw-away keys only.
        #[arg(long)]
        light: bool,
    },
}

fn main() -> Exit {
    let arguments = Arguments::parse();
    service::init_journal("millrace-signer");
    let done = match arguments.command {
        Some(Command::Init { keystore, password_file, light }) => init(&keystore, &password_file, light),
        None => serve(&arguments.config, arguments.check),
    };
    done.err().unwrap_or_else(Exit::stopped)
}

fn init(keystore: &std::path::Path, password_file: &std::path::Path, light: bool) -> Result<(), Exit> {
    let config = |error: keystore::KeystoreError| Exit::because(ExitReason::Config, error);
    let mut rng = rand::rngs::OsRng;
    let password =
        Password::read_or_make(password_file, &mut rng).map_err(|error| Exit::because(ExitReason::Config, error))?;
    let key = SigningKey::generate(&mut rng);
    let work = if light { keystore::Work::LIGHT } else { keystore::Work::STANDARD };
    keystore::create(keystore, &key, password.expose(), work, &mut rng).map_err(config)?;
    writeln!(std::io::stdout(), "{}", key.address()).map_err(|error| Exit::because(ExitReason::Unavailable, error))
}

fn serve(path: &std::path::Path, check: bool) -> Result<(), Exit> {
    let config = Config::read(path).map_err(|error| Exit::because(ExitReason::Config, error))?;
    if check {
        tracing::info!(path = %path.display(), "configuration is good");
        return Ok(());
    }
    // Nobody of the same account may read this memory, and no core dump holds the key.
    nix::sys::prctl::set_dumpable(false).map_err(|error| Exit::because(ExitReason::Software, error))?;
    let key = config.unlock().map_err(|error| Exit::because(ExitReason::Config, error))?;
    let desk = desk::Desk::open(&config, key, Box::new(millrace_hal::LinuxClock));
    let desk = desk.map_err(|error| Exit::because(ExitReason::Unavailable, error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::because(ExitReason::Software, error))?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(|error| Exit::because(ExitReason::Software, error))?;
        let listener = server::listen(&config).map_err(|error| Exit::because(ExitReason::Unavailable, error))?;
        let heartbeats = Arc::new(Heartbeats::default());
        let heartbeat = heartbeats.register("server", server::BEAT * 3);
        tracing::info!(
            account = %desk.identity().address,
            chain = desk.identity().chain_id,
            socket = %config.socket.display(),
            "signer is ready"
        );
        service::notify_ready();
        let allowed = config.allowed_uids().map_err(|error| Exit::because(ExitReason::Config, error))?;
        tokio::select! {
            () = shutdown.requested() => service::notify_stopping(),
            () = heartbeats.feed_watchdog() => {}
            ended = server::run(listener, Arc::new(desk), allowed, config.max_connections, heartbeat) => {
                return Err(Exit::because(ExitReason::Software, ended));
            }
        }
        Ok(())
    })
}
