//! The structure of the sources, kept by a test: what may know what, how long things may become, and which
//! numbers may be cited. Each rule stands in a table with its reason. An exception is a debt with a limit: it
//! fails when it is exceeded, and when it is not needed any more.
//!
//! Code that is compiled for tests only does not count, and neither do macros' arguments, which are no syntax
//! yet. `use` is looked at, and so is every path in the code; what a module hands on is followed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Fields, File, ImplItemFn, Item, ItemFn, ItemMod, ItemStruct, ItemUse, Path as Named,
    TraitItemFn, UseTree, spanned::Spanned, visit::Visit,
};

/// From the ground up. A module knows those on its own floor and below.
const FLOORS: [(&str, &[&str]); 5] = [
    (
        "the words everything is said in",
        &["position", "seconds", "store_error", "pop_if", "budget", "blocking"],
    ),
    (
        "contracts: data and traits",
        &[
            "config",
            "configuration",
            "error",
            "fsm",
            "log",
            "observer",
            "rpc",
            "snapshot",
            "stable",
            "status",
            "transport",
            "end",
            "future",
            "catch_up",
        ],
    ),
    ("the pure core", &["consensus"]),
    (
        "the shell and the parts that need nothing installed",
        &[
            "clock",
            "panics",
            "stored",
            "machine",
            "metrics",
            "log_tail",
            "tasks",
            "file_log",
            "file_snapshot",
            "inmem",
        ],
    ),
    (
        "what a user calls",
        &["add_voter", "api", "autopilot", "bootstrap", "data_dir", "recover", "rejoin", "testing"],
    ),
];

/// What must not be named in the core, and why.
const IMPURE: [(&str, &str); 11] = [
    ("tokio", "the core waits for nothing"),
    ("async_trait", "the core waits for nothing"),
    ("futures_util", "the core waits for nothing"),
    ("tracing", "the core tells its owner, who logs"),
    ("metrics", "the core tells its owner, who counts"),
    ("parking_lot", "the core has one owner"),
    ("std::sync::Mutex", "the core has one owner"),
    ("std::time::Instant", "time is a parameter"),
    ("std::time::SystemTime", "time is a parameter"),
    ("std::thread", "the core has one owner"),
    ("std::fs", "the core does no I/O"),
];

const MAX_FUNCTION_LINES: usize = 70;
const MAX_FILE_LINES: usize = 600;
/// In `tasks/`, where a file that grows is taking a second job on.
const MAX_TASK_LINES: usize = 400;
const MAX_FIELDS: usize = 16;

/// What is longer, how long it may be at most, and what is to become of it.
const TOO_LONG: [(&str, usize, &str); 9] = [
    ("api.rs", 780, "the handle: the table of metrics is to be a page of its own"),
    ("error.rs", 745, "one table of errors, looked up and not read"),
    ("testing/log_store_suite.rs", 620, "a list of promises, one function each"),
    ("testing/transport_suite.rs", 675, "a list of promises, one function each"),
    ("consensus/action.rs::fmt", 72, "one match over every action"),
    ("tasks/mod.rs::spawn_all", 96, "wires every task once, in order"),
    ("testing/kill_suite.rs::power_cut_suite", 98, "one story, told in order"),
    ("testing/kill_suite.rs::write_on", 74, "one story, told in order"),
    ("testing/transport_suite.rs::messages", 79, "one message of every kind"),
];

/// Structs that have to stay smaller than others.
const NARROW: [(&str, usize, &str); 1] =
    [("Consensus", 14, "each part of the state has an owner below it")];

/// Structs that may be wider, how many fields they may have at most, and why.
const TOO_WIDE: [(&str, usize, &str); 3] = [
    ("Config", 40, "every setting, with its unit and range"),
    ("Metrics", 60, "one field for each metric"),
    ("Status", 28, "everything a node says of itself"),
];

/// A source file that is compiled outside of tests.
struct Source {
    /// As in `TOO_LONG`.
    name: String,
    /// `consensus::leader`; empty for the root.
    module: Vec<String>,
    text: String,
    syntax: File,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    })
}

/// All of them, following `mod`.
fn sources() -> Vec<Source> {
    fn read(file: &Path, children: &Path, module: Vec<String>, sources: &mut Vec<Source>) {
        let text = fs::read_to_string(file).unwrap();
        let syntax = syn::parse_file(&text).unwrap();
        for item in &syntax.items {
            let Item::Mod(ItemMod { ident, attrs, content: None, .. }) = item else { continue };
            if is_for_tests(attrs) {
                continue;
            }
            let (name, mut module) = (ident.to_string(), module.clone());
            module.push(name.clone());
            let flat = children.join(format!("{name}.rs"));
            let nested = children.join(&name).join("mod.rs");
            let file = if flat.exists() { flat } else { nested };
            read(&file, &children.join(&name), module, sources);
        }
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        sources.push(Source { name, module, text, syntax });
    }
    let mut sources = Vec::new();
    read(&root().join("lib.rs"), &root(), Vec::new(), &mut sources);
    assert!(80 < sources.len(), "only {} files were found", sources.len());
    sources
}

/// Every path in a file, in full, and what it hands on under its own name.
struct Paths<'a> {
    module: &'a [String],
    named: Vec<Vec<String>>,
    handed_on: Vec<Vec<String>>,
}

impl<'a> Paths<'a> {
    fn of(source: &'a Source) -> Self {
        let mut paths = Self { module: &source.module, named: Vec::new(), handed_on: Vec::new() };
        paths.visit_file(&source.syntax);
        paths
    }

    /// From the root of the crate, or of another crate; `None` for what is in scope anyway.
    fn full(&self, path: &[String]) -> Option<Vec<String>> {
        let up = path.iter().take_while(|segment| *segment == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path.to_vec()),
            "self" | "super" => {
                let kept = self.module.len().checked_sub(up)?;
                let rest = path.iter().skip(up.max(1)).cloned();
                let above = self.module.iter().take(kept).cloned();
                Some(std::iter::once("crate".to_owned()).chain(above).chain(rest).collect())
            }
            _ => Some(path.to_vec()),
        }
    }

    fn leaves(&self, tree: &UseTree, before: &[String], leaves: &mut Vec<Vec<String>>) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.leaves(&path.tree, &with(path.ident.to_string()), leaves),
            UseTree::Name(name) if name.ident == "self" => leaves.extend(self.full(before)),
            UseTree::Name(name) => leaves.extend(self.full(&with(name.ident.to_string()))),
            UseTree::Rename(name) => leaves.extend(self.full(&with(name.ident.to_string()))),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.leaves(tree, before, leaves));
            }
            _ => leaves.extend(self.full(&with("*".to_owned()))),
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut leaves = Vec::new();
        self.leaves(&item.tree, &[], &mut leaves);
        match item.vis {
            syn::Visibility::Inherited => self.named.extend(leaves),
            _ => self.handed_on.extend(leaves),
        }
    }

    fn visit_path(&mut self, path: &'ast Named) {
        let segments: Vec<String> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        let full = self.full(&segments).filter(|_| 1 < segments.len());
        self.named.extend(full);
        syn::visit::visit_path(self, path);
    }
}

/// For each module, the modules of which it names something.
fn arrows(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    let paths: Vec<Paths<'_>> = sources.iter().map(Paths::of).collect();
    // The module a path leads into, and the first name in there.
    let into = |path: &[String]| {
        let inside = path.strip_prefix(&["crate".to_owned()][..])?;
        let depth = (0..=inside.len()).rev().find(|depth| modules.contains(&inside[..*depth]))?;
        Some((inside[..depth].to_vec(), inside.get(depth).cloned().unwrap_or_default()))
    };
    let mut origins = BTreeMap::new();
    for file in &paths {
        for path in &file.handed_on {
            let name = path.last().cloned().unwrap_or_default();
            origins.insert((file.module.to_vec(), name), path.clone());
        }
    }
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &paths {
        for path in &file.named {
            let mut target = into(path);
            while let Some(origin) = target.as_ref().and_then(|target| origins.get(target)) {
                target = into(origin);
            }
            // A module that is named as a whole is no arrow of its own: what is used in it is.
            let Some((target, name)) = target.filter(|(target, _)| *target != file.module) else {
                continue;
            };
            if !name.is_empty() {
                arrows.entry(file.module.join("::")).or_default().insert(target.join("::"));
            }
        }
    }
    assert!(arrows["tasks::run"].contains("consensus"), "arrows are found: {arrows:?}");
    arrows
}

fn floor(module: &str) -> Option<usize> {
    let room = module.split("::").next().unwrap_or_default();
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

#[test]
fn no_arrow_goes_up() {
    let mut wrong = Vec::new();
    for (from, targets) in arrows(&sources()) {
        if from.is_empty() {
            continue;
        }
        let Some(own) = floor(&from) else {
            wrong.push(format!("{from} is on no floor"));
            continue;
        };
        for target in targets {
            if floor(&target).is_some_and(|floor| own < floor) {
                wrong.push(format!("{from} names something of {target}, which is above it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_know_each_other_in_a_circle() {
    // What cannot be reached from itself is taken away until only circles are left.
    let mut left = arrows(&sources());
    loop {
        let before = left.len();
        let rooms: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, targets| targets.iter().any(|target| rooms.contains(target)));
        for targets in left.values_mut() {
            targets.retain(|target| rooms.contains(target));
        }
        if left.len() == before {
            break;
        }
    }
    assert!(left.is_empty(), "in a circle, or above one: {left:#?}");
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|it| it.module.first().is_some_and(|it| it == "consensus"))
    {
        let paths = Paths::of(source);
        for path in paths.named.iter().chain(&paths.handed_on).map(|path| path.join("::")) {
            for (impure, why) in IMPURE {
                if path == impure || path.starts_with(&format!("{impure}::")) {
                    wrong.push(format!("{} names {path}: {why}", source.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions and structs of a file, with their lines or fields.
#[derive(Default)]
struct Sizes {
    functions: Vec<(String, usize)>,
    structs: Vec<(String, usize)>,
}

impl Sizes {
    fn function(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let lines = whole.end().line + 1 - name.span().start().line;
        self.functions.push((name.to_string(), lines));
    }
}

impl<'ast> Visit<'ast> for Sizes {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.function(&item.sig.ident, item.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.function(&item.sig.ident, item.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.function(&item.sig.ident, item.span());
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        if let Fields::Named(fields) = &item.fields {
            self.structs.push((item.ident.to_string(), fields.named.len()));
        }
    }
}

/// Those beyond the limit that are no exception, and exceptions that are none.
fn beyond(
    sizes: &BTreeMap<String, usize>,
    limit: impl Fn(&str) -> usize,
    exceptions: &[(&str, usize, &str)],
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, size) in sizes {
        let exception = exceptions.iter().find(|(exempt, ..)| exempt == name);
        let most = exception.map_or(limit(name), |(_, most, _)| *most);
        if most < *size {
            wrong.push(format!("{name}: {size}, at most {most}"));
        }
    }
    for (name, ..) in exceptions {
        if sizes.get(*name).is_none_or(|size| *size <= limit(name)) {
            wrong.push(format!("{name} needs no exception any more"));
        }
    }
    wrong
}

#[test]
fn nothing_is_too_long() {
    let mut sizes = BTreeMap::new();
    for source in sources() {
        // Tests at the end of a file do not count.
        let code = source.text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().count();
        let mut found = Sizes::default();
        found.visit_file(&source.syntax);
        for (function, lines) in found.functions {
            let most = sizes.entry(format!("{}::{function}", source.name)).or_default();
            *most = lines.max(*most);
        }
        sizes.insert(source.name, lines);
    }
    let limit = |name: &str| match name {
        _ if name.contains("::") => MAX_FUNCTION_LINES,
        _ if name.starts_with("tasks/") => MAX_TASK_LINES,
        _ => MAX_FILE_LINES,
    };
    let wrong = beyond(&sizes, limit, &TOO_LONG);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_struct_is_too_wide() {
    let mut sizes = BTreeMap::new();
    for source in sources() {
        let mut found = Sizes::default();
        found.visit_file(&source.syntax);
        for (name, fields) in found.structs {
            let most = sizes.entry(name).or_default();
            *most = fields.max(*most);
        }
    }
    let limit = |name: &str| {
        let narrow = NARROW.iter().find(|(it, ..)| *it == name);
        narrow.map_or(MAX_FIELDS, |(_, most, _)| *most)
    };
    let wrong = beyond(&sizes, limit, &TOO_WIDE);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Numbers behind a word, as in `law 8`, `laws 3 and 10` or `I6`.
fn cited(text: &str) -> BTreeSet<String> {
    let mut cited = BTreeSet::new();
    let words: Vec<&str> = text
        .split(|it: char| !it.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && *word != "and")
        .collect();
    for (at, word) in words.iter().enumerate() {
        if word.eq_ignore_ascii_case("law") || word.eq_ignore_ascii_case("laws") {
            let numbers = words.iter().skip(at + 1).take_while(|it| it.parse::<u8>().is_ok());
            let count = if word.ends_with('s') { usize::MAX } else { 1 };
            cited.extend(numbers.take(count).map(|number| format!("law {number}")));
        }
        let invariant = word.strip_prefix('I').and_then(|number| number.parse::<u8>().ok());
        cited.extend(invariant.map(|number| format!("I{number}")));
    }
    cited
}

#[test]
fn every_law_that_is_cited_is_written_down_and_asserted() {
    let book = fs::read_to_string(root().join("../../ARCHITECTURE.md")).unwrap();
    let chapter = book.split("\n## Laws\n").nth(1).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let defined: BTreeSet<String> = chapter
        .lines()
        .filter_map(|line| {
            let law = line.split_once(". ").filter(|(number, _)| number.parse::<u8>().is_ok());
            let invariant = line.strip_prefix("| I").and_then(|line| line.split_once(' '));
            law.map(|(number, _)| format!("law {number}"))
                .or(invariant.map(|(number, _)| format!("I{number}")))
        })
        .collect();
    assert_eq!(defined.len(), 25, "{defined:?}");
    let mut everywhere = BTreeSet::new();
    for source in sources() {
        let cited = cited(&source.text);
        let unknown: Vec<_> = cited.difference(&defined).collect();
        assert!(unknown.is_empty(), "{} cites {unknown:?}", source.name);
        everywhere.extend(cited);
    }
    let unused: Vec<_> = defined.difference(&everywhere).collect();
    assert!(unused.is_empty(), "written down, and cited nowhere: {unused:?}");
}
