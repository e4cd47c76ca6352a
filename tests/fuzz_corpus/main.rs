//! What the fuzzer found and what it starts from, through the same functions, with every toolchain.
#[path = "../fuzz/src/targets.rs"]
#[expect(unreachable_pub, reason = "the fuzzer's module, taken in by path")]
mod targets;

mod seeds;

use std::path::PathBuf;

use millrace_tests::media;
use targets::TARGETS;

/// All corpora together stay small enough for a repository.
const MOST_BYTES: u64 = 300 << 10;

fn corpus() -> PathBuf {
    media::repository().join("tests/fuzz/corpus")
}

#[test]
fn every_input_of_every_corpus_is_survived() {
    let (mut inputs, mut bytes) = (0, 0);
    for (name, target) in TARGETS {
        let files = std::fs::read_dir(corpus().join(name)).unwrap_or_else(|e| panic!("{name} has no corpus: {e}"));
        let mut own = 0;
        for file in files {
            let path = file.expect("a directory can be read").path();
            let data = std::fs::read(&path).expect("a file of the repository can be read");
            bytes += u64::try_from(data.len()).expect("a small file");
            // The test harness shows this when the input breaks the target.
            println!("{}", path.display());
            target(&data);
            own += 1;
        }
        assert!(own > 0, "{name} has an empty corpus");
        inputs += own;
    }
    assert!(bytes < MOST_BYTES, "{inputs} inputs have {bytes} bytes: thin them out");
}

#[test]
fn every_target_survives_pieces_of_every_seed() {
    for (name, target) in TARGETS {
        for seed in seeds::of(name) {
            for keep in [0, 1, seed.len() / 3, seed.len().saturating_sub(1), seed.len()] {
                target(seed.get(..keep).unwrap_or_default());
            }
            // A wrong byte here and there.
            for at in (0..seed.len()).step_by(seed.len() / 23 + 1) {
                let mut wrong = seed.clone();
                if let Some(byte) = wrong.get_mut(at) {
                    *byte ^= 0x41;
                }
                target(&wrong);
            }
        }
    }
}

#[test]
#[ignore = "writes the seeds into the corpora anew"]
fn write_the_seeds() {
    for (name, _) in TARGETS {
        let dir = corpus().join(name);
        std::fs::create_dir_all(&dir).expect("the repository can be written");
        for (number, seed) in seeds::of(name).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number:02}")), seed).expect("the repository can be written");
        }
    }
}
