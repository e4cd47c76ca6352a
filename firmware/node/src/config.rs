//! What an operator may set: one file, a section for each part. An empty file is a node off-chain.
use std::path::{Path, PathBuf};
use std::time::Duration;

use chain::ChainConfig;
use millrace_hal::Engine;
use millrace_hal::thermal::{HeatLimits, Limits};
use orchestrator::redeemer::RoundsConfig;
use orchestrator::remote::RemoteConfig;
use orchestrator::{PaymentConfig, RedeemerConfig};
use sandbox::preset::Preset;
use serde::Deserialize;

use crate::admin::{AdminConfig, Exposed};

/// The whole configuration. Every key is read at start; a reload applies none of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Where keys and ledger are kept. Default: `$STATE_DIRECTORY`, else `millrace-state` here.
    pub(crate) state_dir: Option<PathBuf>,
    /// Socket on which the node tells its status. Default: `node.sock` in `$RUNTIME_DIRECTORY`, else in
    /// `/run/millrace`, else in the state directory.
    pub(crate) status_socket: Option<PathBuf>,
    /// Socket of millrace-signer; used on chain only. Default `/run/millrace-signer/signer.sock`.
    pub(crate) signer_socket: PathBuf,
    /// What operators see and set over HTTP.
    pub(crate) admin: AdminConfig,
    /// How gateways are served.
    pub(crate) serve: orchestrator::Config,
    /// The boxes that may attach to us and transcode for us.
    pub(crate) remote: RemoteConfig,
    /// The transcoding processes.
    pub(crate) workers: Workers,
    /// What heat and power do to what is let in.
    pub(crate) thermal: Thermal,
    /// What the work costs; used on chain only.
    pub(crate) payment: PaymentConfig,
    /// How winning tickets are redeemed; used on chain only.
    pub(crate) redeem: RedeemerConfig,
    /// For whom we transcode. With it the node attaches to orchestrators elsewhere and serves no gateways itself: no
    /// port is opened, no chain and no signer are used. Default none.
    pub(crate) transcoder: Option<transcoder::Config>,
    /// The round's errands; used on chain only.
    pub(crate) rounds: RoundsConfig,
    /// The chain. Default none: the node works off-chain, for anybody, for nothing.
    pub(crate) chain: Option<ChainConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: None,
            status_socket: None,
            signer_socket: PathBuf::from("/run/millrace-signer/signer.sock"),
            admin: AdminConfig::default(),
            serve: orchestrator::Config::default(),
            remote: RemoteConfig::default(),
            workers: Workers::default(),
            thermal: Thermal::default(),
            payment: PaymentConfig::default(),
            redeem: RedeemerConfig::default(),
            rounds: RoundsConfig::default(),
            transcoder: None,
            chain: None,
        }
    }
}

/// The transcoding processes.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Workers {
    /// The program. Default: `$MILLRACE_WORKER`, else `millrace-worker` beside this program or in `$PATH`.
    pub(crate) program: Option<PathBuf>,
    /// Processes kept ready for sessions to come. Range 1–8, default 1.
    pub(crate) idle: usize,
    /// Mebibytes of memory one process may use. Range 256–65536, default 1536.
    pub(crate) memory_mib: u64,
    /// Processor threads all of them share. Range 1–1024, default: as many as there are.
    pub(crate) threads: Option<usize>,
    /// Segments at the same time, each of another session. Range 1–1024, default: one for two threads, at least two
    /// where there are two.
    pub(crate) slots: Option<usize>,
    /// What software encoders aim at: `latency`, `balanced` (default) or `quality`.
    pub(crate) preset: Preset,
    /// Engines in the order in which they are tried; those left out are not. Where none works, and for what they cannot
    /// do, the processor works. Default `["jetson", "nvidia", "va", "qsv", "v4l2", "software"]`.
    pub(crate) engines: Vec<Engine>,
}

impl Default for Workers {
    fn default() -> Self {
        Self {
            program: None,
            idle: 1,
            memory_mib: 1536,
            threads: None,
            slots: None,
            preset: Preset::default(),
            engines: Engine::ALL.to_vec(),
        }
    }
}

/// What heat and power do to what is let in; see `hal::thermal`. Temperatures are in degrees Celsius. A sensor that
/// names a critical temperature of its own has limits below that, when those are lower.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Thermal {
    /// Of the processor and the board: from `warm` on newcomers get less step by step, down to half; from `hot` on
    /// faster, down to a quarter; from `stop` on nobody new is let in. Each 30–130, default 85, 95, 103.
    pub(crate) processor: HeatLimits,
    /// Of graphics processors. Each 30–130, default 83, 90, 96.
    pub(crate) gpu: HeatLimits,
    /// Of their hottest spots and their memory. Each 30–130, default 98, 104, 108.
    pub(crate) gpu_inside: HeatLimits,
    /// Degrees below `warm` from which on it counts as cool again. Range 1–30, default 8.
    pub(crate) hysteresis: f32,
    /// Seconds something is bad before newcomers get a step less. Range 1–3600, default 60.
    pub(crate) raise_s: u16,
    /// Seconds all is well before they get a step more. Range 1–3600, default 300.
    pub(crate) clear_s: u16,
    /// Seconds between two looks. Range 1–60, default 5.
    pub(crate) sample_s: u16,
    /// Directory below which `/sys` and `/proc` of the hardware are read; for simulation only. Default `/`.
    pub(crate) hardware_root: PathBuf,
}

impl Default for Thermal {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            processor: limits.processor,
            gpu: limits.gpu,
            gpu_inside: limits.gpu_inside,
            hysteresis: limits.hysteresis,
            raise_s: 60,
            clear_s: 300,
            sample_s: 5,
            hardware_root: PathBuf::from("/"),
        }
    }
}

impl Thermal {
    /// As the policy takes them.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            processor: self.processor,
            gpu: self.gpu,
            gpu_inside: self.gpu_inside,
            raise: Duration::from_secs(self.raise_s.into()),
            clear: Duration::from_secs(self.clear_s.into()),
            hysteresis: self.hysteresis,
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        for (key, heat) in [("processor", self.processor), ("gpu", self.gpu), ("gpu_inside", self.gpu_inside)] {
            for value in [heat.warm.0, heat.hot.0, heat.stop.0] {
                within(key, value, 30.0, 130.0)?;
            }
            if !(heat.warm.0 < heat.hot.0 && heat.hot.0 < heat.stop.0) {
                return Err(ConfigError::Heat { key });
            }
        }
        within("hysteresis", self.hysteresis, 1.0, 30.0)?;
        within("raise_s", self.raise_s.into(), 1.0, 3600.0)?;
        within("clear_s", self.clear_s.into(), 1.0, 3600.0)?;
        within("sample_s", self.sample_s.into(), 1.0, 60.0)
    }
}

fn within(key: &'static str, value: f32, min: f32, max: f32) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Thermal { key, value, min, max }) }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("configuration {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("configuration {path} makes no sense")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("configuration, section {section}")]
    Part {
        section: &'static str,
        #[source]
        source: orchestrator::config::ConfigError,
    },
    #[error("configuration")]
    Chain(#[from] chain::ConfigError),
    #[error("configuration")]
    Transcoder(#[from] transcoder::ConfigError),
    #[error(transparent)]
    Admin(#[from] Exposed),
    #[error("configuration: a node has one role: transcoder and {0} exclude each other")]
    Roles(&'static str),
    #[error("configuration: workers.{key} is {value}, must be {min} to {max}")]
    Workers { key: &'static str, value: u64, min: u64, max: u64 },
    #[error("configuration: thermal.{key} is {value}, must be {min} to {max}")]
    Thermal { key: &'static str, value: f32, min: f32, max: f32 },
    #[error("configuration: thermal.{key} must rise from warm over hot to stop")]
    Heat { key: &'static str },
}

impl Config {
    /// Reads and checks a file; without one everything is at its default.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, ConfigError> {
        let mut config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                let parsed = toml::from_str(&text);
                parsed.map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?
            }
        };
        config.check()?;
        if let Some(chain) = &config.chain {
            config.redeem.confirmations = chain.confirmations;
            config.redeem.rounds = config.rounds;
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let part = |section| move |source| ConfigError::Part { section, source };
        self.admin.check()?;
        self.serve.check().map_err(part("serve"))?;
        self.remote.check().map_err(part("remote"))?;
        self.payment.check().map_err(part("payment"))?;
        self.redeem.check().map_err(part("redeem"))?;
        self.rounds.check().map_err(part("rounds"))?;
        self.thermal.check()?;
        if let Some(transcoder) = &self.transcoder {
            transcoder.check()?;
            if self.chain.is_some() {
                return Err(ConfigError::Roles("chain"));
            }
            if self.remote.secret_file.is_some() {
                return Err(ConfigError::Roles("remote"));
            }
        }
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        for (key, value, min, max) in [
            ("idle", size(self.workers.idle), 1, 8),
            ("memory_mib", self.workers.memory_mib, 256, 65_536),
            ("threads", size(self.workers.threads.unwrap_or(1)), 1, 1024),
            ("slots", size(self.workers.slots.unwrap_or(1)), 1, 1024),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Workers { key, value, min, max });
            }
        }
        Ok(self.chain.as_ref().map_or(Ok(()), ChainConfig::check)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(Some(&path))
    }

    #[test]
    fn an_empty_file_is_a_node_off_chain() {
        let config = read("").unwrap();
        assert!(config.chain.is_none());
        assert_eq!(config.serve.listen.to_string(), "0.0.0.0:8935");
    }

    #[test]
    fn the_shipped_file_says_what_the_defaults_are() {
        let shipped = read(include_str!("../node.toml")).unwrap();
        assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn a_mistyped_key_is_named() {
        let error = read("[serve]\nmax_session = 3\n").unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains("max_session"), "{text}");
    }

    #[test]
    fn a_node_on_chain_needs_endpoints_and_a_recipient() {
        let text = "[chain]\nrpc = [\"http://127.0.0.1:8545\"]\nchain_id = 31337\n\
                    recipient = \"0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1\"\nconfirmations = 2\n\
                    [payment]\nprice_per_pixel = \"0.7\"\n";
        let config = read(text).unwrap();
        assert_eq!((config.redeem.confirmations, config.redeem.stuck_after_s), (2, 300));
        assert_eq!(config.payment.price_per_pixel.to_string(), "0.7");
        assert!(read(&text.replace("rpc = [\"http://127.0.0.1:8545\"]", "rpc = []")).is_err());
    }

    #[test]
    fn operators_are_answered_on_loopback_unless_told_otherwise() {
        assert_eq!(read("").unwrap().admin.listen, None);
        assert!(
            read("[admin]\nlisten = \"127.0.0.1:7935\"\n").is_ok() && read("[admin]\nlisten = \"[::1]:1\"\n").is_ok()
        );
        for address in ["0.0.0.0:7935", "192.0.2.1:7935", "[::]:7935"] {
            let open = format!("[admin]\nlisten = \"{address}\"\n");
            let error = read(&open).unwrap_err().to_string();
            assert!(error.contains(&format!("admin.listen is {address}, which others can reach")), "{error}");
            assert!(read(&format!("{open}allow_remote = true\n")).is_ok());
        }
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        assert!(read("[workers]\nidle = 0\n").unwrap_err().to_string().contains("workers.idle is 0"));
        assert!(read("[redeem]\ndoubt_s = 99999\n").is_err());
        assert!(read("[thermal]\nsample_s = 0\n").unwrap_err().to_string().contains("thermal.sample_s is 0"));
        let steps = read("[thermal]\nprocessor = { warm = 90, hot = 80, stop = 100 }\n").unwrap_err();
        assert!(steps.to_string().contains("thermal.processor must rise"), "{steps}");
        assert!(read("[serve]\nmax_sessions = 0\n").is_err());
        assert!(read("[serve]\nmax_sessions = \"many\"\n").is_err());
    }
}
