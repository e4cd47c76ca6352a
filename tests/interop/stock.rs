//! A stock go-livepeer in each of its roles: flags, ports, logs.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::cluster::{Program, free_port};

use crate::web;

/// How long a stock node may take to come up.
const START: Duration = Duration::from_secs(60);
/// What remote transcoders show.
pub(crate) const SECRET: &str = "interop-secret";

/// The stock program.
#[derive(Debug)]
pub(crate) struct Livepeer {
    program: PathBuf,
    version: String,
}

/// What a stock node on a chain needs.
#[derive(Debug, Clone)]
pub(crate) struct StockChain {
    pub rpc: String,
    pub controller: String,
    pub keystore: PathBuf,
    pub password: PathBuf,
}

impl StockChain {
    fn args(&self) -> Vec<String> {
        let pairs = [
            ("-network", "millrace-dev".to_owned()),
            ("-ethUrl", self.rpc.clone()),
            ("-ethController", self.controller.clone()),
            ("-ethKeystorePath", self.keystore.display().to_string()),
            ("-ethPassword", self.password.display().to_string()),
            ("-blockPollingInterval", "1".to_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }
}

/// A running stock node.
#[derive(Debug)]
pub(crate) struct Stock {
    pub program: Program,
    /// Where gateways or transcoders reach an orchestrator, or where a gateway takes HTTP pushes.
    pub address: String,
    /// Its admin port, with metrics.
    pub admin: String,
    /// Where a gateway takes RTMP.
    pub rtmp: String,
}

impl Livepeer {
    pub(crate) fn new(program: &Path) -> Result<Self> {
        let output = Command::new(program).arg("-version").output();
        let output = output.with_context(|| format!("{} does not run", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let version =
            text.lines().find_map(|line| line.split_once("Version:")).map(|(_, version)| version.trim().to_owned());
        let version =
            version.with_context(|| format!("{} does not look like go-livepeer: {text}", program.display()))?;
        Ok(Self { program: program.to_owned(), version })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    async fn start(&self, dir: &Path, name: &str, role: &[String], chain: Option<&StockChain>) -> Result<Stock> {
        let given = role.iter().skip_while(|arg| *arg != "-httpAddr").nth(1);
        let given = given.and_then(|address| address.rsplit(':').next()?.parse().ok());
        let (main, admin, rtmp) = (given.map_or_else(free_port, Ok)?, free_port()?, free_port()?);
        let data = dir.join(name);
        std::fs::create_dir_all(&data)?;
        let mut args = role.to_vec();
        let pair = |flag: &str, value: String| [flag.to_owned(), value];
        args.extend(pair("-datadir", data.display().to_string()));
        args.extend(pair("-cliAddr", format!("127.0.0.1:{admin}")));
        args.extend(pair("-v", "6".to_owned()));
        args.push("-monitor".to_owned());
        let orchestrator = args.iter().any(|arg| arg == "-orchestrator");
        let gateway = args.iter().any(|arg| arg == "-gateway");
        if orchestrator {
            if !args.iter().any(|arg| arg == "-httpAddr") {
                args.extend(pair("-httpAddr", format!("127.0.0.1:{main}")));
            }
            if !args.iter().any(|arg| arg == "-serviceAddr") {
                args.extend(pair("-serviceAddr", format!("127.0.0.1:{main}")));
            }
        }
        if gateway {
            args.extend(pair("-httpAddr", format!("127.0.0.1:{main}")));
            args.extend(pair("-rtmpAddr", format!("127.0.0.1:{rtmp}")));
        }
        if let Some(chain) = chain {
            args.extend(chain.args());
        }
        let borrowed: Vec<&str> = args.iter().map(String::as_str).collect();
        std::fs::write(dir.join(format!("{name}.args")), args.join(" "))?;
        let mut program = Program::start_other(&self.program, name, &borrowed, dir, &[])?;
        let status = format!("http://127.0.0.1:{admin}/status");
        program.wait_until(START, async || web::get(&status).await.ok().map(drop)).await?;
        if orchestrator || gateway {
            program
                .wait_until(START, async || std::net::TcpStream::connect(("127.0.0.1", main)).ok().map(drop))
                .await?;
        }
        let address = format!("127.0.0.1:{main}");
        Ok(Stock { program, address, admin: format!("127.0.0.1:{admin}"), rtmp: format!("127.0.0.1:{rtmp}") })
    }

    /// A gateway; `more` tells it where its orchestrators are.
    pub(crate) async fn gateway(&self, dir: &Path, more: &[&str], chain: Option<&StockChain>) -> Result<Stock> {
        let ladder = dir.join("ladder.json");
        std::fs::write(&ladder, crate::source::LADDER_JSON)?;
        let mut args = owned(&["-gateway", "-httpIngest", "-transcodingOptions"]);
        args.push(ladder.display().to_string());
        args.extend(owned(more));
        self.start(dir, "stock-gateway", &args, chain).await
    }

    /// An orchestrator, with its own transcoder or waiting for others'.
    pub(crate) async fn orchestrator(
        &self,
        dir: &Path,
        transcoder: bool,
        more: &[&str],
        chain: Option<&StockChain>,
    ) -> Result<Stock> {
        let mut args =
            owned(&["-orchestrator", "-startupAvailabilityCheck=false", "-orchSecret", SECRET, "-maxSessions", "20"]);
        if transcoder {
            args.push("-transcoder".to_owned());
        }
        args.extend(owned(more));
        self.start(dir, "stock-orchestrator", &args, chain).await
    }

    /// A remote transcoder.
    pub(crate) async fn transcoder(&self, dir: &Path, orchestrator: &str) -> Result<Stock> {
        let args = owned(&["-transcoder", "-orchSecret", SECRET, "-maxSessions", "20", "-orchAddr", orchestrator]);
        self.start(dir, "stock-transcoder", &args, None).await
    }
}

impl Stock {
    /// The lines it logged as errors since it started, shortened, each once with its count.
    pub(crate) fn errors(&self) -> Result<Vec<String>> {
        let text = std::fs::read(self.program.log())?;
        let text = String::from_utf8_lossy(&text);
        let mut seen: Vec<(String, usize)> = Vec::new();
        for line in text.lines().filter(|line| is_error(line)) {
            let said = line.split_once("] ").map_or(line, |(_, said)| said);
            let said: String = said.chars().take(300).collect();
            match seen.iter_mut().find(|(other, _)| alike(other, &said)) {
                Some((_, count)) => *count += 1,
                None => seen.push((said, 1)),
            }
        }
        Ok(seen.into_iter().map(|(said, count)| format!("{count} x {said}")).collect())
    }

    /// How often its log has this text.
    pub(crate) fn said(&self, text: &str) -> Result<usize> {
        let log = std::fs::read(self.program.log())?;
        Ok(String::from_utf8_lossy(&log).matches(text).count())
    }

    /// One of its metrics, summed over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let text = web::get(&format!("http://{}/metrics", self.admin)).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let full = format!("livepeer_{name}");
        let values =
            text.lines().filter(|line| line.strip_prefix(&full).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let ended = self.program.ended()?;
        ensure!(ended.is_none(), "a stock node ended: {ended:?}\n{}", self.program.log_tail());
        Ok(())
    }
}

/// glog's mark of an error or worse: a letter, then month and day.
fn is_error(line: &str) -> bool {
    let mut chars = line.chars();
    matches!(chars.next(), Some('E' | 'F')) && chars.take(4).all(|c| c.is_ascii_digit())
}

/// The same complaint, whatever the numbers and names in it.
fn alike(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let plain = |word: &str| !word.contains(|c: char| c.is_ascii_digit()) && !word.contains('=');
        text.split_whitespace().filter(|word| plain(word)).map(str::to_owned).collect()
    };
    words(one) == words(other)
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}
