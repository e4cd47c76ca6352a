use std::path::PathBuf;

use super::*;

fn tools() -> Tools {
    Tools { systemctl: "true".into(), sysupdate: "true".into() }
}

/// A box with keys, a LUKS header, and an order of the fleet agent's.
fn scene(dir: &Path, erase: bool) -> (Paths, PathBuf) {
    let paths = Paths::below(dir);
    files::put(&paths.at("var/lib/millrace-site/credstore/keystore"), b"sealed", 0o600).unwrap();
    files::put(&paths.site().join("config/node.toml"), b"[serve]\n", 0o644).unwrap();
    files::put(&paths.var_partition(), &[b"LUKS\xba\xbe".as_slice(), &[0x5a; 100_000]].concat(), 0o600).unwrap();
    fs::create_dir_all(paths.efivars()).unwrap();
    let request = paths.at("run/millrace-fleet/decommission.json");
    files::put_json(&request, &Decommission { id: "o-1".to_owned(), erase }, 0o644).unwrap();
    (paths, request)
}

async fn decommissioned(paths: &Paths, request: &Path) -> Result<String, ResetError> {
    let mut said = String::new();
    decommission(paths, &tools(), request, &mut |line| said.push_str(&format!("{line}\n"))).await.map(|()| said)
}

#[tokio::test]
async fn keys_are_destroyed_before_anything_else_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, _) = scene(dir.path(), true);
    fs::remove_dir_all(paths.efivars()).unwrap();
    // Without a place for variables: the keys are gone all the same, and it says what is left to do. The disk stays
    // readable to this box, which could not make it anew.
    assert!(matches!(reset(&paths, &tools(), &mut |_| ()).await, Err(ResetError::NoVariables(_))));
    assert!(!paths.at("var/lib/millrace-site/credstore/keystore").exists());
    assert!(destroy::is_luks(&paths.var_partition()).unwrap());
    fs::create_dir_all(paths.efivars()).unwrap();
    reset(&paths, &tools(), &mut |_| ()).await.unwrap();
    let value = fs::read(paths.efivars().join(VARIABLE)).unwrap();
    assert_eq!(value, [7, 0, 0, 0, b'y', 0, b'e', 0, b's', 0, 0, 0]);
    assert!(!destroy::is_luks(&paths.var_partition()).unwrap());
}

#[tokio::test]
async fn a_box_that_is_erased_says_what_it_destroyed_and_asks_for_a_new_var() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, request) = scene(dir.path(), true);
    let said = decommissioned(&paths, &request).await.unwrap();
    for line in
        ["by order o-1", "destroyed: /var/lib/millrace-site/credstore", "a new /var at the next start", "LUKS headers"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(paths.efivars().join(VARIABLE).exists() && !destroy::is_luks(&paths.var_partition()).unwrap());
}

#[tokio::test]
async fn a_box_that_is_kept_loses_its_keys_and_its_work_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, request) = scene(dir.path(), false);
    files::put(&paths.at("var/lib/millrace/ledger"), b"earned", 0o600).unwrap();
    decommissioned(&paths, &request).await.unwrap();
    assert!(is_decommissioned(&paths) && !paths.site().join("config").exists());
    assert!(paths.at("var/lib/millrace/ledger").exists() && destroy::is_luks(&paths.var_partition()).unwrap());
    assert!(!paths.efivars().join(VARIABLE).exists());
    // Started again it is not switched off again: the order is done.
    assert!(!paths.state().join(NOTE).exists());
}

#[tokio::test]
async fn an_order_that_was_cut_off_anywhere_is_gone_on_with_after_the_restart() {
    // Stopped by a systemd that fails at the last step, and by keys that cannot be removed at the first.
    let dir = tempfile::tempdir().unwrap();
    let (paths, request) = scene(dir.path(), true);
    let failing = Tools { systemctl: "false".into(), sysupdate: "true".into() };
    let cut = decommission(&paths, &failing, &request, &mut |_| ()).await;
    assert!(matches!(cut, Err(ResetError::Command(_))), "the restart was refused");
    fs::remove_file(&request).unwrap();
    let said = decommissioned(&paths, &request).await.unwrap();
    assert!(said.contains("by order o-1") && said.contains("it was destroyed before"), "{said}");

    let (paths, request) = scene(&dir.path().join("second"), true);
    let in_the_way = paths.efivars();
    fs::remove_dir(&in_the_way).unwrap();
    fs::remove_dir_all(paths.at("var/lib/millrace-site/credstore")).unwrap();
    files::put_json(&paths.state().join(NOTE), &Decommission { id: "o-2".to_owned(), erase: false }, 0o600).unwrap();
    let said = decommissioned(&paths, &request).await.unwrap();
    assert!(said.contains("by order o-2"), "the order that was begun is the one that is ended: {said}");
}

#[tokio::test]
async fn without_an_order_nothing_is_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let (paths, request) = scene(dir.path(), true);
    fs::remove_file(&request).unwrap();
    assert!(matches!(decommissioned(&paths, &request).await, Err(ResetError::NoOrder)));
    files::put(&request, br#"{"id":"x","erase":"yes"}"#, 0o644).unwrap();
    assert!(decommissioned(&paths, &request).await.is_err());
    assert!(paths.at("var/lib/millrace-site/credstore/keystore").exists() && !paths.state().join(NOTE).exists());
}
