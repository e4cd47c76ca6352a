//! `millrace import-config`: what operators of go-livepeer have becomes what the node accepts, and every flag is accounted
//! for. Each directory of `tests/vectors/import` holds the arguments, the files they name, the configuration and the
//! report; `DIR` stands for where it ran.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use millrace_tests::anvil::repository;
use millrace_tests::bins::bin;

use crate::node::Node;

/// The cases there are.
const CASES: [&str; 4] = ["config-file", "line", "script", "unit"];

fn vectors() -> PathBuf {
    repository().join("tests/vectors/import")
}

/// A copy of a case without what is expected of it, and the arguments.
fn lay_out(case: &str) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(vectors().join(case)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if name != "node.toml" && name != "report.txt" {
            std::fs::copy(&path, dir.path().join(name)).unwrap();
        }
    }
    let args = std::fs::read_to_string(dir.path().join("args")).unwrap();
    (dir, args.lines().map(str::to_owned).collect())
}

fn import(dir: &Path, args: &[String]) -> Output {
    Command::new(bin("millrace")).arg("import-config").args(args).current_dir(dir).output().unwrap()
}

#[test]
fn every_case_becomes_a_configuration_that_the_node_accepts() {
    let mut found: Vec<String> =
        std::fs::read_dir(vectors()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, CASES, "a case was not run");
    for case in CASES {
        let (dir, args) = lay_out(case);
        let output = import(dir.path(), &args);
        let here = dir.path().display().to_string();
        let said = String::from_utf8(output.stderr).unwrap().replace(&here, "DIR");
        let expected = |name: &str| std::fs::read_to_string(vectors().join(case).join(name)).unwrap();
        assert_eq!(said, expected("report.txt"), "{case}: the report");
        assert_eq!(output.status.code(), Some(1), "{case}: each sets something that is not supported");
        let written = std::fs::read_to_string(dir.path().join("node.toml")).unwrap();
        assert_eq!(written.replace(&here, "DIR"), expected("node.toml"), "{case}: the configuration");
        let check = Command::new(bin("millrace-node"))
            .args(["--check", "--config"])
            .arg(dir.path().join("node.toml"))
            .output()
            .unwrap();
        assert!(check.status.success(), "{case}: {}", String::from_utf8_lossy(&check.stderr));
        for secret in ["a-secret-of-the-boxes", "correct horse", "it's \"ours\"", "0123456789abcdef"] {
            assert!(!said.contains(secret), "{case}: the report shows a secret");
        }
    }
}

#[test]
fn a_secret_goes_to_a_file_of_its_own_and_nothing_is_overwritten_unasked() {
    let (dir, args) = lay_out("unit");
    let secret = dir.path().join("orch-secret");
    assert_eq!(import(dir.path(), &args).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "a-secret-of-the-boxes");
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!std::fs::read_to_string(dir.path().join("node.toml")).unwrap().contains("a-secret"));

    std::fs::write(dir.path().join("node.toml"), "mine").unwrap();
    let refused = import(dir.path(), &args);
    assert_eq!(refused.status.code(), Some(73), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(std::fs::read_to_string(dir.path().join("node.toml")).unwrap(), "mine");
    let mut forced = args.clone();
    forced.push("--force".to_owned());
    assert_eq!(import(dir.path(), &forced).status.code(), Some(1));
    assert!(std::fs::read_to_string(dir.path().join("node.toml")).unwrap().contains("[chain]"));
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "nothing is left beside them: {names:?}");
}

#[test]
fn an_unknown_flag_is_an_error_that_names_it() {
    let (dir, args) = lay_out("line");
    let strict: Vec<_> = args.into_iter().filter(|arg| arg != "--lenient").collect();
    let output = import(dir.path(), &strict);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("-colour") && !dir.path().join("node.toml").exists(), "{said}");
}

#[tokio::test]
async fn a_node_runs_on_what_was_imported() {
    let (dir, args) = lay_out("line");
    assert_eq!(import(dir.path(), &args).status.code(), Some(1));
    let config = std::fs::read_to_string(dir.path().join("node.toml")).unwrap();
    let node = Node::start(dir.path(), &config).await;
    let status = node.status().await;
    assert_eq!(status.service_uri, "https://127.0.0.1:18935");
    assert!((1..=3).contains(&status.sessions.capacity), "{:?}", status.sessions);
    assert_eq!(node.stop(), Some(0));
}
