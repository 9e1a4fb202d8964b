//! What the pages of the repository say about its code is true.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The newest version that a source file declares, of a format or of a range of protocols.
fn declared(source: &str) -> Option<u32> {
    let line = source.lines().find(|line| {
        line.contains("const FORMAT_VERSION: ") || line.contains("const VERSIONS: ")
    })?;
    let digits = |c: char| !c.is_ascii_digit();
    line.rsplit(digits).find(|number| !number.is_empty())?.parse().ok()
}

#[test]
fn the_page_on_stability_names_the_versions_of_the_code() {
    let page = read("docs/stability.md");
    let mut rows = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && line.contains("/src/")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, version, description, source] = cells[..] else { panic!("{row}") };
        assert_eq!(declared(&read(source.trim_matches('`'))), version.parse().ok(), "{row}");
        read(description.trim_matches('`'));
        rows += 1;
    }
    assert_eq!(rows, 4, "the protocol, two logs, and the snapshots");
}

#[test]
fn every_make_target_that_a_page_names_exists() {
    for page in ["README.md", "CONTRIBUTING.md", "RELEASING.md"] {
        let text = read(page);
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let mut targets = 0;
        for command in quoted.chain(text.lines().map(str::trim)) {
            let Some(target) = command.strip_prefix("make ") else { continue };
            let target = target.split_whitespace().next().unwrap();
            let plan = Command::new("make").arg("-n").arg(target).current_dir(root()).output();
            assert!(plan.unwrap().status.success(), "{page}: there is no `make {target}`");
            targets += 1;
        }
        assert!(3 <= targets, "{page} names only {targets} make targets");
    }
}
