//! `docs/model_tests.md` claims that each test of the model has its counterpart here. This reads the
//! page and checks the claim: every id occurs once, every test that is named exists, and is run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

/// Every id there is: the letter of a group, and how many rows it has.
const GROUPS: [(char, usize); 10] = [
    ('R', 78),
    ('W', 16),
    ('I', 3),
    ('T', 24),
    ('S', 20),
    ('U', 33),
    ('F', 9),
    ('C', 4),
    ('D', 16),
    ('B', 26),
];

fn all_ids() -> BTreeSet<String> {
    let ids = |(group, count)| (1..=count).map(move |number| format!("{group}{number:02}"));
    GROUPS.into_iter().flat_map(ids).collect()
}

/// A row of the page: its cells.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_row = |line: &&str| line.starts_with('|');
    page.lines()
        .filter(is_row)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| !["id", "---"].contains(&cells[0]))
}

/// Whether the source has a test of this name: a function with an attribute that makes it one, and
/// none that keeps it from being run.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_it = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = || lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        is_it(line)
            && attributes().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
            && !attributes().any(|line| line.starts_with("#[ignore"))
    })
}

/// Everything that is wrong with the page. `read` gives the source of a path.
fn faults(page: &str, read: impl Fn(&str) -> io::Result<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut times: BTreeMap<String, usize> = all_ids().into_iter().map(|id| (id, 0)).collect();
    for cells in rows(page) {
        let [id, claim, test] = cells[..] else {
            faults.push(format!("{}: a row has three cells", cells[0]));
            continue;
        };
        match times.get_mut(id) {
            None => faults.push(format!("{id}: no such id")),
            Some(times) => *times += 1,
        }
        if claim.is_empty() {
            faults.push(format!("{id}: says nothing"));
        }
        let reason = ["absent: ", "to come: "].iter().find_map(|word| test.strip_prefix(word));
        if reason.is_some_and(|reason| !reason.is_empty()) {
            continue;
        }
        for named in test.split("<br>") {
            let named = named.trim().strip_prefix('`').and_then(|named| named.strip_suffix('`'));
            let Some((path, name)) = named.and_then(|named| named.split_once("::")) else {
                faults.push(format!("{id}: neither a test nor a reason: {test:?}"));
                continue;
            };
            match read(path) {
                Err(error) => faults.push(format!("{id}: {path}: {error}")),
                Ok(source) if !has_test(&source, name) => {
                    faults.push(format!("{id}: {path} has no test {name}"));
                }
                Ok(_) => {}
            }
        }
    }
    let wrong = times.into_iter().filter(|(_, times)| *times != 1);
    faults.extend(wrong.map(|(id, times)| format!("{id}: occurs {times} times")));
    faults
}

#[test]
fn every_row_of_the_models_catalogue_is_proved_or_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/model_tests.md")).unwrap();
    let faults = faults(&page, |path| fs::read_to_string(root.join(path)));
    assert!(faults.is_empty(), "{faults:#?}");
    // Most rows have a test: the reasons of the others are not the rule.
    let proved = rows(&page).filter(|cells| cells[2].starts_with('`')).count();
    assert!(3 * all_ids().len() <= 4 * proved, "only {proved} rows are proved");
}

#[test]
fn the_check_of_the_catalogue_finds_what_is_wrong() {
    let source = "#[test]\nfn good() {}\n\n#[tokio::test(start_paused = true)]\n#[should_panic]\n\
                  async fn also_good() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn never_run() {}\n\n\
                  fn no_test() {}\n#[test]\nfn good_as_well() {}\n";
    let read = |path: &str| match path {
        "a.rs" => Ok(source.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let page = |test: &str| -> String {
        let head = "| id | what it proves | test |\n|---|---|---|\n".to_owned();
        all_ids().iter().fold(head, |page, id| page + &format!("| {id} | something | {test} |\n"))
    };
    for good in ["`a.rs::good`", "`a.rs::good`<br>`a.rs::also_good`", "absent: no such thing"] {
        assert_eq!(faults(&page(good), read), Vec::<String>::new(), "{good}");
    }
    let wrong = [
        "",
        "good",
        "a.rs::good",
        "`a.rs`",
        "`b.rs::good`",
        "`a.rs::goo`",
        "`a.rs::good_as`",
        "`a.rs::no_test`",
        "`a.rs::never_run`",
        "`a.rs::good`<br>`a.rs::bad`",
        "absent: ",
        "absent",
        "to come",
    ];
    for wrong in wrong {
        assert_eq!(faults(&page(wrong), read).len(), all_ids().len(), "{wrong}");
    }
    let good = page("`a.rs::good`");
    assert_eq!(faults("", read).len(), all_ids().len(), "an empty page");
    let row = "| R05 | something | `a.rs::good` |\n";
    assert_eq!(faults(&good.replace(row, ""), read), ["R05: occurs 0 times"]);
    assert_eq!(faults(&format!("{good}{row}"), read), ["R05: occurs 2 times"]);
    let unknown = format!("{good}| R79 | something | `a.rs::good` |\n");
    assert_eq!(faults(&unknown, read), ["R79: no such id"]);
    assert_eq!(
        faults(&good.replace(row, "| R05 |  | `a.rs::good` |\n"), read),
        ["R05: says nothing"]
    );
    assert_eq!(faults(&good.replace(row, "| R05 | something |\n"), read).len(), 2);
}
