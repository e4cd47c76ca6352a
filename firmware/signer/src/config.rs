//! What an operator can set. Secrets are never in the file.
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use livepeer::address::Address;
use livepeer::signature::SigningKey;
use livepeer::units::Wei;
use rand::RngCore;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::keystore::{self, KeystoreError};

/// Largest password or keystore file.
const MAX_FILE: u64 = 64 * 1024;

/// The configuration file. A restart applies changes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Path of the Unix socket. Default `/run/millrace-signer/signer.sock`.
    #[serde(default = "default_socket")]
    pub(crate) socket: PathBuf,
    /// Users who may ask, by name or number. Default `["millrace"]`; the signer's own user always may.
    #[serde(default = "default_users")]
    allowed_users: Vec<User>,
    /// The keystore file. Default: the systemd credential `keystore`.
    keystore: Option<PathBuf>,
    /// The file with the keystore's password, mode 0600. Default: the systemd credential `keystore-password`.
    password_file: Option<PathBuf>,
    /// Where the spending record is kept. Default `/var/lib/millrace-signer`.
    #[serde(default = "default_state")]
    pub(crate) state_dir: PathBuf,
    /// Connections at once, 1 to 64. Default 8.
    #[serde(default = "default_connections")]
    pub(crate) max_connections: usize,
    /// What transactions may be signed. Without it: none (an off-chain node needs only result signatures).
    pub(crate) chain: Option<ChainConfig>,
}

/// The transactions that may be signed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainConfig {
    /// The one chain, by its id (42161 is Arbitrum One).
    pub(crate) chain_id: u64,
    /// Who is paid: tickets are redeemed and rewards called for this orchestrator only.
    pub(crate) recipient: Address,
    /// Contract on which `redeemWinningTicket` and `batchRedeemWinningTickets` may be called.
    pub(crate) ticket_broker: Address,
    /// Contract on which `initializeRound` may be called. Default: not at all.
    pub(crate) rounds_manager: Option<Address>,
    /// Contract on which `rewardForTranscoder[WithHint]` may be called. Default: not at all.
    pub(crate) bonding_manager: Option<Address>,
    /// Largest gas limit of one transaction. Default 3000000.
    #[serde(default = "default_gas")]
    pub(crate) max_gas_limit: u64,
    /// Largest fee per gas, in wei. Default 5 gwei.
    #[serde(default = "default_fee")]
    pub(crate) max_fee_per_gas_wei: Wei,
    /// Most that the transactions signed within one UTC day may cost, in wei, taking each at its gas limit and
    /// largest fee. Default 0.02 ETH.
    #[serde(default = "default_daily")]
    pub(crate) daily_limit_wei: Wei,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum User {
    Id(u32),
    Name(String),
}

fn default_socket() -> PathBuf {
    "/run/millrace-signer/signer.sock".into()
}
fn default_users() -> Vec<User> {
    vec![User::Name("millrace".into())]
}
fn default_state() -> PathBuf {
    "/var/lib/millrace-signer".into()
}
fn default_connections() -> usize {
    8
}
fn default_gas() -> u64 {
    3_000_000
}
fn default_fee() -> Wei {
    Wei::from(5_000_000_000)
}
fn default_daily() -> Wei {
    Wei::from(20_000_000_000_000_000)
}

/// What is wrong with the configuration or the files it names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file cannot be read or written.
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a valid configuration")]
    Syntax {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A network address instead of a path.
    #[error("socket {0:?} is not an absolute path: the signer serves a Unix socket only and never a network address")]
    Socket(PathBuf),
    /// Out of range.
    #[error("max_connections is {0}, it must be 1 to 64")]
    Connections(usize),
    /// Everybody could be paid.
    #[error("{0} must not be the null address")]
    NullAddress(&'static str),
    /// Neither named nor given by systemd.
    #[error("no {key} is configured and systemd gave no credential {credential}")]
    Missing { key: &'static str, credential: &'static str },
    /// No such user.
    #[error("allowed user {0} does not exist on this machine")]
    UnknownUser(String),
    /// Others can read the password.
    #[error("{0} can be read by others: chmod 600 it, and change the password if it may have leaked")]
    Exposed(PathBuf),
    /// Nothing in it.
    #[error("{0} holds no password")]
    NoPassword(PathBuf),
    /// The keystore does not open.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
}

impl Config {
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(io(path))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        if !config.socket.is_absolute() {
            return Err(ConfigError::Socket(config.socket));
        }
        if !(1..=64).contains(&config.max_connections) {
            return Err(ConfigError::Connections(config.max_connections));
        }
        if let Some(chain) = &config.chain {
            let named = [
                ("chain.recipient", Some(chain.recipient)),
                ("chain.ticket_broker", Some(chain.ticket_broker)),
                ("chain.rounds_manager", chain.rounds_manager),
                ("chain.bonding_manager", chain.bonding_manager),
            ];
            if let Some((key, _)) = named.into_iter().find(|(_, address)| address.is_some_and(|a| a.is_null())) {
                return Err(ConfigError::NullAddress(key));
            }
        }
        Ok(config)
    }

    /// The key, from the keystore and its password.
    pub(crate) fn unlock(&self) -> Result<SigningKey, ConfigError> {
        let keystore = located(self.keystore.as_deref(), "keystore", "keystore")?;
        let password = located(self.password_file.as_deref(), "password_file", "keystore-password")?;
        let password = Password::read(&password, self.password_file.is_some())?;
        Ok(keystore::open(&keystore, password.expose())?)
    }

    /// Who may connect.
    pub(crate) fn allowed_uids(&self) -> Result<Vec<u32>, ConfigError> {
        let mut uids = vec![nix::unistd::geteuid().as_raw()];
        for user in &self.allowed_users {
            uids.push(match user {
                User::Id(id) => *id,
                User::Name(name) => nix::unistd::User::from_name(name)
                    .ok()
                    .flatten()
                    .map(|user| user.uid.as_raw())
                    .ok_or_else(|| ConfigError::UnknownUser(name.clone()))?,
            });
        }
        Ok(uids)
    }
}

/// The path named in the configuration, or else that of the systemd credential.
fn located(named: Option<&Path>, key: &'static str, credential: &'static str) -> Result<PathBuf, ConfigError> {
    let given = || std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(credential));
    named.map(Path::to_owned).or_else(given).ok_or(ConfigError::Missing { key, credential })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ConfigError {
    let path = path.to_owned();
    move |source| ConfigError::Io { path, source }
}

/// A password, wiped when dropped, never shown.
pub(crate) struct Password(Zeroizing<Vec<u8>>);

impl Password {
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The first line of a file that only we can read.
    fn read(path: &Path, check_mode: bool) -> Result<Self, ConfigError> {
        let metadata = std::fs::metadata(path).map_err(io(path))?;
        if check_mode && metadata.mode() & 0o077 != 0 {
            return Err(ConfigError::Exposed(path.to_owned()));
        }
        if metadata.len() > MAX_FILE {
            return Err(ConfigError::NoPassword(path.to_owned()));
        }
        let bytes = Zeroizing::new(std::fs::read(path).map_err(io(path))?);
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(ConfigError::NoPassword(path.to_owned()));
        }
        Ok(Self(Zeroizing::new(line.to_vec())))
    }

    /// The password in a file; a random one, written there, when there is no such file.
    pub(crate) fn read_or_make(path: &Path, rng: &mut impl RngCore) -> Result<Self, ConfigError> {
        if !path.exists() {
            let mut bytes = Zeroizing::new([0u8; 32]);
            rng.fill_bytes(&mut *bytes);
            let text = Zeroizing::new(hex::encode(*bytes));
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
            written.map_err(io(path))?;
        }
        Self::read(path, true)
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("signer.toml"), text)
    }

    const CHAIN: &str = r#"
        [chain]
        chain_id = 42161
        recipient = "0x5CbDd86a2FA8Dc4bDdd8a8f69dBa48572EeC07FB"
        ticket_broker = "0xa8bB618B1520E284046F3dFc448851A1Ff26e41B"
    "#;

    #[test]
    fn an_empty_file_is_an_off_chain_signer() {
        let config = parse("").unwrap();
        assert!(config.chain.is_none());
        assert_eq!(config.max_connections, 8);
        assert!(parse(CHAIN).unwrap().chain.is_some());
    }

    #[test]
    fn a_network_address_is_refused() {
        for address in ["127.0.0.1:9000", "tcp://0.0.0.0:1", "localhost:80"] {
            assert!(matches!(parse(&format!("socket = \"{address}\"")), Err(ConfigError::Socket(_))), "{address}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(parse("max_connections = 0"), Err(ConfigError::Connections(0))));
        assert!(matches!(parse("soket = \"/x\""), Err(ConfigError::Syntax { .. })));
        assert!(matches!(parse("password = \"secret\""), Err(ConfigError::Syntax { .. })));
        let null = CHAIN.replace("0xa8bB618B1520E284046F3dFc448851A1Ff26e41B", &format!("0x{}", "0".repeat(40)));
        assert!(matches!(parse(&null), Err(ConfigError::NullAddress("chain.ticket_broker"))));
        let users = parse("allowed_users = [\"nobody-of-this-name\"]").unwrap();
        assert!(matches!(users.allowed_uids(), Err(ConfigError::UnknownUser(_))));
    }

    #[test]
    fn a_password_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let made = Password::read_or_make(&path, &mut rand::rngs::OsRng).unwrap();
        assert_eq!(Password::read(&path, true).unwrap().expose(), made.expose());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Password::read(&path, true), Err(ConfigError::Exposed(_))));
        assert!(!format!("{made:?}").contains(&hex::encode(made.expose())));
    }

    #[test]
    fn a_password_ends_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, b"se cret\r\nrest").unwrap();
        assert_eq!(Password::read(&path, false).unwrap().expose(), b"se cret");
        std::fs::write(&path, b"\n").unwrap();
        assert!(matches!(Password::read(&path, false), Err(ConfigError::NoPassword(_))));
    }
}
