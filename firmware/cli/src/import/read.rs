//! What was set for go-livepeer, wherever it stands: its configuration file, a command line in a script or a unit, the
//! environment.
//!
//! It is read as go-livepeer reads it: Go's rules for flags, the last of equal flags wins, the command line wins over the
//! environment and that over the configuration file. No message holds a value: any may be a secret.
use std::collections::BTreeMap;

use super::flags::{self, Flag};
use super::words::{self, OpenQuote, Syntax, Token, Variables, Word};

/// A flag and what it was set to.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The text.
    pub(super) value: String,
    /// Where it stands, for people.
    pub(super) from: String,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("value", &"[not shown]").field("from", &self.from).finish()
    }
}

/// All settings of one place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// By the flag's name.
    pub(super) settings: BTreeMap<&'static str, Setting>,
    /// Names that are no flags, and where they stand.
    pub(super) unknown: Vec<(String, String)>,
    /// What else the reader has to know.
    pub(super) remarks: Vec<String>,
}

/// Why settings cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    /// A quote is open.
    #[error("{from}, {source}")]
    Quote {
        /// Where.
        from: String,
        /// What.
        source: OpenQuote,
    },
    /// A flag without its value.
    #[error("{from}: -{flag} has no value")]
    NoValue {
        /// Where.
        from: String,
        /// The flag.
        flag: &'static str,
    },
    /// The value is made of something we do not know.
    #[error("{from}: the value of -{flag} needs {what}, which is not known here: replace it by what it stands for")]
    Unknown {
        /// Where.
        from: String,
        /// The flag.
        flag: &'static str,
        /// What it needs.
        what: String,
    },
    /// A word that go-livepeer stops at.
    #[error(
        "{from}: a word that is no flag {after}: go-livepeer stops reading there, so what follows never had any effect. \
         Remove it; a switch is turned off by -flag=false, not by a word of its own"
    )]
    Stray {
        /// Where.
        from: String,
        /// What is before it.
        after: String,
    },
    /// Neither a program nor settings.
    #[error(
        "{from} holds neither a command of go-livepeer nor settings; where a unit starts a script, give the script, and \
         with `--` the command line itself"
    )]
    Nothing {
        /// Where.
        from: String,
    },
    /// More than one program.
    #[error("{from} starts go-livepeer {count} times: give one command line at a time, with `--`")]
    Several {
        /// Where.
        from: String,
        /// How often.
        count: usize,
    },
}

impl Found {
    /// Adds settings that count less than those here.
    pub(super) fn under(&mut self, other: Self) {
        for (name, setting) in other.settings {
            self.settings.entry(name).or_insert(setting);
        }
        self.unknown.extend(other.unknown);
        self.remarks.extend(other.remarks);
    }

    fn set(&mut self, flag: &'static Flag, value: String, from: &str) {
        self.settings.insert(flag.name, Setting { value, from: from.to_owned() });
    }
}

/// Flags of a command line, without the program's name.
pub(super) fn arguments(words: &[Word], from: &str) -> Result<Found, ReadError> {
    let mut found = Found::default();
    let mut words = words.iter();
    let mut after = "at the start".to_owned();
    while let Some(word) = words.next() {
        let stray = || ReadError::Stray { from: from.to_owned(), after: after.clone() };
        let Some(bare) = word.text.strip_prefix("--").or_else(|| word.text.strip_prefix('-')) else {
            return Err(stray());
        };
        if bare.is_empty() && word.text == "--" && words.len() == 0 {
            break;
        }
        if bare.is_empty() {
            return Err(stray());
        }
        let (name, attached) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        let Some(flag) = flags::flag(name) else {
            found.unknown.push((format!("-{}", plain(name)), from.to_owned()));
            // Whether a word after it is its value cannot be known; a hyphen says that it is not.
            if attached.is_none() && words.as_slice().first().is_some_and(|next| !next.text.starts_with('-')) {
                words.next();
            }
            after = "after a flag that is unknown".to_owned();
            continue;
        };
        after = format!("after -{}", flag.name);
        let separate = if attached.is_none() && !flag.is_boolean { words.next() } else { None };
        let unknown = word.unknown.as_ref().or(separate.and_then(|word| word.unknown.as_ref()));
        if let Some(what) = unknown {
            return Err(ReadError::Unknown { from: from.to_owned(), flag: flag.name, what: what.clone() });
        }
        let value = match (attached, separate) {
            (Some(value), _) => value,
            (None, Some(word)) => word.text.clone(),
            (None, None) if flag.is_boolean => "true".to_owned(),
            (None, None) => return Err(ReadError::NoValue { from: from.to_owned(), flag: flag.name }),
        };
        found.set(flag, value, from);
    }
    Ok(found)
}

/// A name of a flag as it can be shown: what is no name may be anything.
fn plain(name: &str) -> String {
    let shown = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars().filter(shown).take(40).collect()
}

/// go-livepeer's configuration file: `key value` on each line, a key alone is a switch.
pub(super) fn configuration(text: &str, from: &str) -> Result<Found, ReadError> {
    let mut found = Found::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.split(" #").next().unwrap_or_default().trim();
        let from = format!("{from}, line {}", number + 1);
        match flags::flag(name).or_else(|| flags::flag_of_variable(name)) {
            None => found.unknown.push((plain(name), from)),
            Some(flag) if value.is_empty() && flag.is_boolean => found.set(flag, "true".to_owned(), &from),
            Some(flag) if value.is_empty() || value.starts_with('#') => {
                return Err(ReadError::NoValue { from, flag: flag.name });
            }
            Some(flag) => found.set(flag, value.to_owned(), &from),
        }
    }
    Ok(found)
}

/// Variables named `LP_…`; empty ones count for nothing, and go-livepeer ignores those it does not know.
pub(super) fn environment<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>, from: &str) -> Found {
    let mut found = Found::default();
    for (name, value) in variables {
        match flags::flag_of_variable(name) {
            Some(flag) if !value.is_empty() => found.set(flag, value.to_owned(), from),
            None if name.starts_with("LP_") => {
                found.remarks.push(format!("{from}: {} is no setting; go-livepeer ignores it too", plain(name)));
            }
            _ => {}
        }
    }
    found
}

/// How much settings of a place count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Before all others, variables that were set for it included.
    CommandLine,
    /// Between the two.
    Environment,
    /// After all others.
    Configuration,
}

/// A file of whatever kind.
pub(super) fn file(text: &str, from: &str) -> Result<(Found, Rank), ReadError> {
    let is_setting = |line: &str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        flags::flag(name).or_else(|| flags::flag_of_variable(name)).is_some()
    };
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines().any(|line| line == "[Service]") {
        return Ok((unit(text, from)?, Rank::CommandLine));
    }
    if lines().any(is_setting) {
        return Ok((configuration(text, from)?, Rank::Configuration));
    }
    let variable = |line: &str| {
        let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        words::is_name(name).then(|| (name.to_owned(), unquoted(value).to_owned()))
    };
    let variables: Option<Vec<_>> = lines().map(variable).collect();
    match variables {
        Some(variables) if variables.iter().any(|(name, _)| name.starts_with("LP_")) => {
            let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            Ok((environment(variables, from), Rank::Environment))
        }
        _ => Ok((command(text, from, Syntax::Shell, Variables::new())?, Rank::CommandLine)),
    }
}

/// Without the quotes around it, as in files of variables.
fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

/// A shell script, or what a unit starts.
fn command(text: &str, from: &str, syntax: Syntax, mut variables: Variables) -> Result<Found, ReadError> {
    let tokens = words::split(text, syntax, &mut variables);
    let tokens = tokens.map_err(|source| ReadError::Quote { from: from.to_owned(), source })?;
    let commands: Vec<Vec<&Token>> = tokens.split(|token| *token == Token::End).map(|c| c.iter().collect()).collect();
    let mut runs: Vec<(Vec<Word>, Found)> = commands.iter().filter_map(|command| program(command, from)).collect();
    let count = runs.len();
    let Some((words, before)) = runs.pop() else { return Err(ReadError::Nothing { from: from.to_owned() }) };
    if count > 1 {
        return Err(ReadError::Several { from: from.to_owned(), count });
    }
    let mut found = arguments(&words, from)?;
    found.under(before);
    found.under(environment(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())), from));
    Ok(found)
}

/// The arguments of go-livepeer when this command runs it, by itself or in a container, and the variables set for it.
fn program(command: &[&Token], from: &str) -> Option<(Vec<Word>, Found)> {
    let words: Vec<&Word> =
        command.iter().filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None }).collect();
    let base = |word: &Word| word.text.rsplit('/').next().unwrap_or_default().to_owned();
    let contained = words.iter().take(3).any(|word| matches!(base(word).as_str(), "docker" | "podman" | "nerdctl"));
    let is_program = |word: &&Word| {
        let name = base(word);
        let name = name.split([':', '@']).next().unwrap_or_default();
        // A container may be called anything, its image has a path or a tag.
        let image = name == "go-livepeer" && word.text.contains(['/', ':']);
        !word.text.contains('=') && if contained { image } else { name == "livepeer" }
    };
    let at = words.iter().position(is_program)?;
    let (before, rest) = words.split_at(at);
    // `cd /opt/livepeer` and `chown livepeer FILE` run something else.
    let flagged = rest.get(1).is_some_and(|word| word.text.starts_with('-'));
    if !flagged && before.iter().any(|word| !word.text.contains('=') && word.text != "exec") {
        return None;
    }
    // `NAME=value program`, `docker run -e NAME=value image`.
    let set = before.iter().filter_map(|word| {
        let text = word.text.strip_prefix("--env=").or_else(|| word.text.strip_prefix("-e")).unwrap_or(&word.text);
        let (name, value) = text.split_once('=')?;
        (name.starts_with("LP_") && word.unknown.is_none()).then_some((name, value))
    });
    let found = environment(set, from);
    Some((rest.iter().skip(1).map(|word| (*word).clone()).collect(), found))
}

/// A systemd unit: what it starts, and the variables it sets.
fn unit(text: &str, from: &str) -> Result<Found, ReadError> {
    let joined = text.replace("\\\n", " ");
    let mut variables = Variables::new();
    let (mut started, mut remarks) = (None, Vec::new());
    for line in joined.lines().map(str::trim) {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key.trim() {
            "ExecStart" if value.trim().is_empty() => started = None,
            "ExecStart" => started = Some(value.trim().trim_start_matches(['-', '@', ':', '+', '!']).to_owned()),
            "Environment" => {
                // Each assignment is a word of its own here.
                let tokens = words::split(value, Syntax::Unit, &mut Variables::new());
                let tokens = tokens.map_err(|source| ReadError::Quote { from: from.to_owned(), source })?;
                variables.extend(tokens.iter().filter_map(words::assignment));
            }
            "EnvironmentFile" | "LoadCredential" => {
                remarks.push(format!("{from}: {}= is not followed; give that file too", key.trim()));
            }
            _ => {}
        }
    }
    let Some(started) = started else { return Err(ReadError::Nothing { from: from.to_owned() }) };
    if started.contains('%') {
        remarks.push(format!("{from}: ExecStart has specifiers (%): they are taken as they stand"));
    }
    let mut found = command(&started, from, Syntax::Unit, variables)?;
    found.remarks.extend(remarks);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(found: &Found) -> Vec<(&str, &str)> {
        found.settings.iter().map(|(name, setting)| (*name, setting.value.as_str())).collect()
    }

    fn line(text: &str) -> Result<Found, ReadError> {
        file(text, "line").map(|(found, _)| found)
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let found = line("livepeer -orchestrator --transcoder=false -v 6 -maxSessions=3 -maxSessions 4 --").unwrap();
        let wanted = [("maxSessions", "4"), ("orchestrator", "true"), ("transcoder", "false"), ("v", "6")];
        assert_eq!(values(&found), wanted);
        assert_eq!(values(&line("livepeer -orchSecret -transcoder").unwrap()), [("orchSecret", "-transcoder")]);
        assert!(matches!(line("livepeer -v"), Err(ReadError::NoValue { flag: "v", .. })));
    }

    #[test]
    fn a_word_that_stops_go_is_no_silent_loss() {
        let error = line("livepeer -orchestrator true -transcoder").unwrap_err();
        assert!(error.to_string().contains("after -orchestrator: go-livepeer stops"), "{error}");
        assert!(matches!(line("livepeer -v 6 - -transcoder"), Err(ReadError::Stray { .. })));
        assert!(matches!(line("livepeer -- -transcoder"), Err(ReadError::Stray { .. })));
    }

    #[test]
    fn no_message_holds_a_value() {
        for text in ["livepeer -ethPassword hush hunter2", "livepeer -ethPassword $(hunter2)", "livepeer -v 'hunter2"] {
            assert!(!line(text).unwrap_err().to_string().contains("hunter2"), "{text}");
        }
        let found = line("livepeer -orchSecret hunter2").unwrap();
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn programs_are_found_in_scripts_containers_and_units() {
        let script = "#!/bin/sh\nSECRET=s\nLP_V=6\ncd /opt/livepeer\nexec /usr/bin/livepeer \\\n  -orchestrator -orchSecret \"$SECRET\" \\\n  -datadir /x/livepeer >log 2>&1 &\n";
        let found = line(script).unwrap();
        assert_eq!(
            values(&found),
            [("datadir", "/x/livepeer"), ("orchSecret", "s"), ("orchestrator", "true"), ("v", "6")]
        );
        let docker = "docker run -d --name go-livepeer -e LP_V=5 -v /root/livepeer:/root livepeer/go-livepeer:v0.9.1 -transcoder";
        assert_eq!(values(&line(docker).unwrap()), [("transcoder", "true"), ("v", "5")]);
        let unit = "[Unit]\n[Service]\nEnvironment=\"LP_V=4\" X=y\nEnvironmentFile=/etc/lp\nExecStart=\nExecStart=-/usr/bin/livepeer -nvidia ${X} \\\n -gateway=false\n";
        let found = line(unit).unwrap();
        assert_eq!(values(&found), [("gateway", "false"), ("nvidia", "y"), ("v", "4")]);
        assert_eq!(found.remarks.len(), 1, "{:?}", found.remarks);
        assert!(matches!(line("livepeer -v 6\nlivepeer -v 5"), Err(ReadError::Several { count: 2, .. })));
        assert!(matches!(line("echo hello"), Err(ReadError::Nothing { .. })));
    }

    #[test]
    fn a_configuration_file_has_keys_switches_and_comments() {
        let text = "# mine\norchestrator\n  serviceAddr  a.example:8935   # here\nLP_V 6\ncolour blue\n";
        let found = line(text).unwrap();
        assert_eq!(values(&found), [("orchestrator", "true"), ("serviceAddr", "a.example:8935"), ("v", "6")]);
        assert_eq!(found.unknown, [("colour".to_owned(), "line, line 5".to_owned())]);
        assert!(matches!(line("orchestrator\nserviceAddr"), Err(ReadError::NoValue { flag: "serviceAddr", .. })));
    }

    #[test]
    fn the_command_line_wins_over_the_environment() {
        let mut found = line("livepeer -v 6").unwrap();
        found
            .under(environment([("LP_V", "1"), ("LP_NVIDIA", "all"), ("LP_REGION", ""), ("LP_X", "1")], "environment"));
        assert_eq!(values(&found), [("nvidia", "all"), ("v", "6")]);
        assert_eq!(found.remarks.len(), 1);
    }
}
