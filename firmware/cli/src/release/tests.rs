use super::*;

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

/// An image's parts as its builder names them.
fn image(dir: &Path, version: &str, change: u8) -> PathBuf {
    let image = dir.join(format!("image-{version}"));
    fs::create_dir_all(&image).unwrap();
    let mut root: Vec<u8> = (0..2_000_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    root[5000..6000].fill(change);
    let uuid = UUID.replace('-', "");
    for (name, bytes) in [
        (format!("millrace_{version}_x86-64.root-x86-64-verity.{uuid}.raw"), vec![change; 4096]),
        (format!("millrace_{version}_x86-64.root-x86-64.{uuid}.raw"), root),
        (format!("millrace_{version}_x86-64.efi"), vec![3; 70_000]),
        (format!("millrace_{version}_x86-64.raw"), vec![0; 10]),
        ("initrd.cpio.zst".to_owned(), vec![0; 10]),
    ] {
        fs::write(image.join(name), bytes).unwrap();
    }
    image
}

fn pack_release(dir: &Path, version: &str, change: u8, delta_from: Vec<PathBuf>) -> PathBuf {
    let out = dir.join(format!("release-{version}"));
    let args = ManifestArgs {
        image: image(dir, version, change),
        version: version.parse().unwrap(),
        profile: "x86".to_owned(),
        arch: "x86-64".to_owned(),
        channel: "stable".to_owned(),
        min_version: "1.0.0".parse().unwrap(),
        days: 30,
        sbom: None,
        delta_from,
        level: 1,
        out: out.clone(),
    };
    manifest(&args).unwrap();
    out
}

pub(crate) fn make_key(dir: &Path, name: &str) -> (PathBuf, SigningKey) {
    let path = dir.join(name);
    new_key(&path).unwrap();
    let key = read_key(&path).unwrap();
    (path, key)
}

#[test]
fn a_release_is_packed_signed_by_several_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (alice, a) = make_key(dir, "alice.key");
    let (bob, b) = make_key(dir, "bob.key");
    let keys = Keys { release: vec![a.verifying_key(), b.verifying_key()], threshold: 2, test: false };
    let keys_path = dir.join("keys.json");
    fs::write(&keys_path, keys.to_json()).unwrap();
    let first = pack_release(dir, "1.1.0", 1, vec![]);
    let release = pack_release(dir, "1.2.0", 2, vec![first]);
    run(Command::Sign { dir: release.clone(), key: vec![alice] }).unwrap();
    assert!(verify(&release, &keys_path).is_err(), "one of two is not enough");
    run(Command::Sign { dir: release.clone(), key: vec![bob] }).unwrap();
    assert_eq!(verify(&release, &keys_path).unwrap(), Outcome::Done);

    let read = Release::read(&fs::read(release.join(MANIFEST)).unwrap(), &keys).unwrap();
    let root = &read.artifacts[1];
    assert_eq!(root.name, format!("millrace_1.2.0_{UUID}.root.raw"));
    let delta = &root.deltas[0];
    assert!(delta.from.to_string() == "1.1.0" && delta.file.size * 20 < root.packed.size, "{delta:?}");

    let packed = release.join(&root.packed.path);
    let mut bytes = fs::read(&packed).unwrap();
    bytes[100] ^= 1;
    fs::write(&packed, bytes).unwrap();
    assert!(verify(&release, &keys_path).unwrap_err().to_string().contains("is not what was signed"));
}

#[test]
fn a_release_that_was_packed_anew_loses_the_signatures_over_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (alice, a) = make_key(dir, "alice.key");
    let (bob, b) = make_key(dir, "bob.key");
    let keys = Keys { release: vec![a.verifying_key(), b.verifying_key()], threshold: 2, test: true };
    let release = pack_release(dir, "1.2.0", 1, vec![]);
    run(Command::Sign { dir: release.clone(), key: vec![alice] }).unwrap();
    pack_release(dir, "1.2.0", 2, vec![]);
    run(Command::Sign { dir: release.clone(), key: vec![bob] }).unwrap();
    assert!(Release::read(&fs::read(release.join(MANIFEST)).unwrap(), &keys).is_err());
}

#[test]
fn a_key_that_others_can_read_signs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = make_key(dir.path(), "alice.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(read_key(&path).unwrap_err().to_string().contains("can be read by others"));
    assert!(new_key(&path).is_err(), "a key is never overwritten");
}
