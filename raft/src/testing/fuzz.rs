//! What fuzzers call, and ordinary tests with what fuzzers have found: one function for each target.
//!
//! `fuzz/fuzz_targets` has a program for each, which gives it the bytes that libFuzzer makes. [`replay`] gives it
//! the files of `fuzz/corpus` and `fuzz/regressions`, as a test. Each checks, and panics with what does not hold.

use std::{fs, path::Path};

/// What reads the segments of a log in files: `file_log/fuzz` says what is made of the bytes and what must hold.
///
/// # Panics
/// If it does not.
pub fn log_segment(data: &[u8]) {
    if let Err(wrong) = crate::file_log::fuzz::run(data) {
        panic!("{wrong}");
    }
}

/// Calls `check` with each file that the fuzz crate in `dir` keeps for `target`: its corpus, and what once was
/// found wrong. Their names are printed before, so that the last one is known.
///
/// # Panics
/// If there is no corpus, or a file cannot be read.
pub fn replay(dir: &Path, target: &str, mut check: impl FnMut(&[u8])) {
    for kind in ["corpus", "regressions"] {
        let dir = dir.join(kind).join(target);
        let files = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut paths: Vec<_> = files.map(|file| file.path()).collect();
        paths.sort();
        assert!(kind != "corpus" || !paths.is_empty(), "no corpus in {}", dir.display());
        for path in paths {
            println!("{}", path.display());
            let data =
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            check(&data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn dir() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    #[test]
    fn every_target_has_a_corpus_that_can_be_read() {
        let mut targets = 0;
        for program in fs::read_dir(dir().join("fuzz_targets")).unwrap() {
            let path = program.unwrap().path();
            let mut files = 0;
            replay(&dir(), path.file_stem().unwrap().to_str().unwrap(), |_| files += 1);
            assert!(10 < files, "{} has {files} files only", path.display());
            targets += 1;
        }
        assert!(0 < targets);
    }

    #[test]
    #[should_panic(expected = "no corpus")]
    fn a_corpus_that_is_not_there_is_missed() {
        replay(&dir(), "nothing", |_| {});
    }
}
