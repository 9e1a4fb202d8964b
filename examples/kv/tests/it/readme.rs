//! What the README says of `kv` is true.

use crate::harness::{run, text};

const README: &str = include_str!("../../../../README.md");

#[test]
fn it_lists_the_redis_commands() {
    let words: Vec<_> = README.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let help = text(&run(&["serve", "--help"]).stdout);
    let (_, listed) = help.split_once("Redis commands").unwrap();
    let (listed, _) = listed.split_once("Absent").unwrap();
    let is_command = |word: &&str| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase());
    let commands: Vec<_> = listed.split_whitespace().filter(is_command).collect();
    assert!(30 <= commands.len(), "{commands:?}");
    for command in commands {
        assert!(words.contains(&command), "the README does not name {command}");
    }
}

#[test]
fn it_names_only_commands_that_work() {
    let quoted = README.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut commands = 0;
    for command in quoted {
        let Some(args) = command.strip_prefix("cargo run --release --bin kv -- ") else { continue };
        let output = run(&args.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
        commands += 1;
    }
    assert!(0 < commands, "the README does not say how to run kv");
}
