//! Kills a process that writes, again and again, and checks what it had acknowledged.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
};

use super::kept;
use crate::{
    log::{Entries, Entry, EntryPayload, LogStore, LogWrite},
    position::{LogIndex, Term},
    stable::{HardState, StableStore},
    store_error::StoreError,
};

const ROUNDS: u64 = 60;
const CHILD: &str = "the test program can be started, heard and killed";
const WRITE: &str = "a write that leaves no gap succeeds";
const CHILD_DIR: &str = "RAFT_KILL_SUITE_DIR";
const CHILD_SEED: &str = "RAFT_KILL_SUITE_SEED";

/// Has a process write to a [`LogStore`] and a [`StableStore`] in `dir`, which is empty at first, kills it at a
/// random moment, and checks that exactly what it had acknowledged is there, or that plus the one write under
/// way: all of it or nothing. 60 times, on one and the same directory.
///
/// The process is the test program itself: `test` is the full name of the test that calls this, and has to be
/// all that it calls. `open` opens the two stores.
///
/// Among the writes are compactions, resets of the whole log, votes that come with entries, and appends that
/// note the commit index. A killed process loses nothing that the kernel already has, so this shows atomicity,
/// order and recovery; that every write is synced [`power_cut_suite`] shows.
///
/// # Panics
/// On the first broken promise, naming it; and when the test program cannot be started again.
pub async fn kill_suite<L: LogStore, S: StableStore>(
    test: &str,
    dir: &Path,
    open: impl Fn(&Path) -> Result<(L, S), StoreError>,
) {
    power_cut_suite(test, dir, ROUNDS, open, |child| kept(child.kill(), CHILD)).await;
}

/// The same with a power cut in the place of the kill: `cut` has the file system that `dir` is on lose what was
/// not synced, ends the process, and returns when the directory is there again. `rounds` times.
///
/// # Panics
/// As [`kill_suite`].
pub async fn power_cut_suite<L: LogStore, S: StableStore>(
    test: &str,
    dir: &Path,
    rounds: u64,
    open: impl Fn(&Path) -> Result<(L, S), StoreError>,
    mut cut: impl FnMut(&mut Child),
) {
    let open = |dir: &Path| kept(open(dir), "what was cut short can be opened");
    if let (Ok(dir), Ok(seed)) = (env::var(CHILD_DIR), env::var(CHILD_SEED)) {
        let (log, stable) = open(&PathBuf::from(dir));
        write_on(log, stable, seed.parse().unwrap_or_default()).await;
    }
    let mut random = Random(20_140_522);
    let mut model = Model::default();
    // Between these the noted commit index has to lie, whatever else the model says.
    let (mut noted_at_least, mut appended_at_most) = (0, 0);
    let mut resets = 0;
    let (mut acknowledged, mut cut_short, mut complete) = (0_u64, 0_u64, 0_u64);
    for round in 0..rounds {
        let mut child = start(test, dir, random.below(u64::MAX));
        let mut lines = BufReader::new(child.stdout.take().expect("its output is read here"))
            .lines()
            .map(|line| kept(line, CHILD));
        let mut under_way = None;
        let mut take = |line: String, model: &mut Model| {
            if let Some(write) = line.strip_prefix("begin ") {
                under_way = Some(kept(write.parse::<Step>(), CHILD));
                if let Some(Step::Append { last, .. }) = under_way {
                    appended_at_most = last.max(appended_at_most);
                }
            } else if let Some(write) = line.strip_prefix("done ") {
                let begun = under_way.take();
                assert_eq!(begun.map(Step::line).as_deref(), Some(write));
                match begun {
                    Some(Step::Append { last, note, .. }) => {
                        noted_at_least = note.min(last).max(noted_at_least);
                    }
                    Some(Step::Reset) => resets += 1,
                    _ => {}
                }
                *model = model.after(kept(write.parse(), CHILD));
                acknowledged += 1;
                return true;
            }
            false
        };
        let mut until = random.below(40);
        while 0 < until {
            let line = lines.next().expect("the child ended by itself");
            until -= u64::from(take(line, &mut model));
        }
        // Up to about a write's time, without a clock.
        for _ in 0..random.below(20_000) {
            std::hint::spin_loop();
        }
        cut(&mut child);
        kept(child.wait(), CHILD);
        // What it still said; a line is one write to the pipe, whole or not there.
        for line in lines {
            take(line, &mut model);
        }

        let (log, mut stable) = open(dir);
        let (entries, noted, hard_state) = stored(&log, &mut stable).await;
        drop((log, stable));
        let fits = |model: &Model| {
            entries == model.entries() && noted == model.noted && hard_state == model.hard_state()
        };
        if let Some(write) = under_way {
            cut_short += 1;
            let next = model.after(write);
            if fits(&next) {
                complete += 1;
                model = next;
            }
        }
        assert!(
            fits(&model),
            "round {round}: found {:?} to {:?}, {noted:?} noted, and {hard_state:?}; acknowledged \
             {} to {}, {:?} noted, and {:?}; under way {under_way:?}",
            entries.first().map(Entry::id),
            entries.last_id(),
            model.first,
            if model.terms.is_empty() { 0 } else { model.last() },
            model.noted,
            model.hard_state(),
        );
        let noted = noted.unwrap_or(0);
        assert!(
            noted_at_least <= noted && noted <= appended_at_most,
            "round {round}: {noted} is noted, not from {noted_at_least} to {appended_at_most}"
        );
        model.note = None;
    }
    println!("{acknowledged} acknowledged, {cut_short} cut short, {complete} of them complete");
    println!("{resets} resets, and {noted_at_least} noted at last");
    assert!(rounds < acknowledged && 0 < cut_short && 0 < resets, "nothing was tested");
}

/// A small generator (splitmix64): the rounds are the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// One write, as text between child and parent.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// After a note of the commit index; zero is none.
    Append {
        term: u64,
        first: u64,
        last: u64,
        note: u64,
    },
    /// Term, vote and entries of that term in one write, with a removal of what they take the place of.
    Replace {
        term: u64,
        first: u64,
        last: u64,
    },
    TruncateSuffix {
        from: u64,
    },
    TruncatePrefix {
        through: u64,
    },
    /// Removes the whole log.
    Reset,
    Vote {
        term: u64,
    },
}

impl Step {
    fn line(self) -> String {
        match self {
            Self::Append { term, first, last, note } => {
                format!("append {term} {first} {last} {note}")
            }
            Self::Replace { term, first, last } => format!("replace {term} {first} {last}"),
            Self::TruncateSuffix { from } => format!("suffix {from}"),
            Self::TruncatePrefix { through } => format!("prefix {through}"),
            Self::Reset => "reset".to_owned(),
            Self::Vote { term } => format!("vote {term}"),
        }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|error| format!("{line:?}: {error}"));
        match words[..] {
            ["append", term, first, last, note] => {
                let (first, last) = (number(first)?, number(last)?);
                Ok(Self::Append { term: number(term)?, first, last, note: number(note)? })
            }
            ["replace", term, first, last] => Ok(Self::Replace {
                term: number(term)?,
                first: number(first)?,
                last: number(last)?,
            }),
            ["suffix", from] => Ok(Self::TruncateSuffix { from: number(from)? }),
            ["prefix", through] => Ok(Self::TruncatePrefix { through: number(through)? }),
            ["reset"] => Ok(Self::Reset),
            ["vote", term] => Ok(Self::Vote { term: number(term)? }),
            _ => Err(format!("what is {line:?}?")),
        }
    }
}

/// What the store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    /// Terms of the entries from `first` on.
    terms: Vec<u64>,
    first: u64,
    vote: Option<u64>,
    /// The durable commit index.
    noted: Option<u64>,
    /// The newest note of this process: what of it lies behind the last entry comes later.
    note: Option<u64>,
}

impl Model {
    fn last(&self) -> u64 {
        self.first + self.terms.len() as u64 - 1
    }

    fn after(&self, step: Step) -> Self {
        let mut next = self.clone();
        match step {
            Step::Append { term, first, last, note } => {
                if next.terms.is_empty() {
                    next.first = first;
                }
                next.terms.extend((first..=last).map(|_| term));
                next.note = if note == 0 { next.note } else { Some(note) };
                next.noted = next.noted.max(next.note.map(|note| note.min(last)));
            }
            Step::Replace { term, first, last } => {
                next.vote = Some(term);
                next.terms.truncate(first.saturating_sub(next.first) as usize);
                next.note = next.note.map(|note| note.min(first - 1));
                next.terms.extend((first..=last).map(|_| term));
                next.noted = next.noted.max(next.note.map(|note| note.min(last)));
            }
            Step::TruncateSuffix { from } => {
                next.terms.truncate(from.saturating_sub(next.first) as usize);
                next.note = next.note.map(|note| note.min(from - 1));
            }
            Step::TruncatePrefix { through } => {
                let gone = (through + 1 - next.first).min(next.terms.len() as u64);
                next.terms.drain(..gone as usize);
                next.first += gone;
            }
            Step::Reset => next.terms.clear(),
            Step::Vote { term } => next.vote = Some(term),
        }
        if next.terms.is_empty() {
            next.first = 0;
        }
        next
    }

    fn entries(&self) -> Entries {
        let entries: Vec<_> =
            self.terms.iter().zip(self.first..).map(|(term, index)| entry(*term, index)).collect();
        entries.into()
    }

    fn hard_state(&self) -> Option<HardState> {
        self.vote.map(vote)
    }
}

/// The entry follows from its term and index, the vote from its term.
fn entry(term: u64, index: u64) -> Entry {
    let length = Random(term ^ index << 32).below(2000) as usize;
    let byte = (term ^ index).to_be_bytes()[7];
    Entry {
        term: Term(term),
        index: LogIndex(index),
        payload: EntryPayload::Command(vec![byte; length].into()),
    }
}

fn vote(term: u64) -> HardState {
    HardState { current_term: Term(term), voted_for: Some(format!("server-{term}").into()) }
}

async fn stored(
    log: &impl LogStore,
    stable: &mut impl StableStore,
) -> (Entries, Option<u64>, Option<HardState>) {
    let reader = log.reader();
    let entries = match kept(reader.bounds().await, "the bounds can be read") {
        None => Entries::default(),
        Some((first, last)) => {
            kept(reader.read(first..=last, u64::MAX).await, "what was written can be read")
        }
    };
    let hard_state = kept(stable.hard_state().await, "term and vote can be read");
    (entries, noted(log).await, hard_state)
}

async fn noted(log: &impl LogStore) -> Option<u64> {
    kept(log.reader().noted_commit().await, "the noted commit index can be read").map(|it| it.0)
}

/// What the child does until it is killed.
async fn write_on(mut log: impl LogStore, mut stable: impl StableStore, seed: u64) {
    let mut random = Random(seed);
    let reader = log.reader();
    let is_one_medium = log.medium().is_some() && log.medium() == stable.medium();
    let mut term = kept(stable.hard_state().await, CHILD).map_or(0, |saved| saved.current_term.0);
    let say = |word: &str, step: Step| {
        let line = format!("\n{word} {}\n", step.line());
        kept(std::io::stdout().write_all(line.as_bytes()), CHILD);
    };
    loop {
        let bounds = kept(reader.bounds().await, CHILD).map(|(first, last)| (first.0, last.0));
        let noted = noted(&log).await.unwrap_or(0);
        let step = match (random.below(20), bounds) {
            // What is committed is not removed from the end.
            (0 | 1, Some((first, last))) => {
                let from = last + 1 - random.below((last - first + 2).min(40));
                Step::TruncateSuffix { from: from.max(noted + 1) }
            }
            (2 | 3, Some((first, last))) => {
                Step::TruncatePrefix { through: first + random.below((last - first + 1).min(60)) }
            }
            (4, Some(_)) => Step::Reset,
            (7 | 8, Some((first, last))) if is_one_medium => {
                term += 1;
                let from = last + 1 - random.below((last - first + 1).min(40));
                let first = from.max(noted + 1);
                Step::Replace { term, first, last: first + random.below(5) }
            }
            (5 | 6, _) => {
                term += 1;
                Step::Vote { term }
            }
            (_, bounds) => {
                let first = bounds.map_or(noted + 1 + random.below(1000), |(_, last)| last + 1);
                let last = first + random.below(20);
                // Now and then one that is too far.
                let note = noted.max(first.saturating_sub(10)) + random.below(40);
                let note = if random.below(3) == 0 { 0 } else { note };
                Step::Append { term, first, last, note }
            }
        };
        say("begin", step);
        match step {
            Step::Append { term, first, last, note } => {
                if 0 < note {
                    log.note_commit(LogIndex(note));
                }
                let cut = first + random.below(last - first + 1);
                let batch = |range: std::ops::RangeInclusive<u64>| -> Entries {
                    range.map(|index| entry(term, index)).collect::<Vec<_>>().into()
                };
                kept(log.append(&[batch(first..=cut), batch(cut + 1..=last)]).await, WRITE);
            }
            Step::Replace { term, first, last } => {
                let entries: Entries =
                    (first..=last).map(|index| entry(term, index)).collect::<Vec<_>>().into();
                let write = LogWrite {
                    hard_state: Some(&vote(term)),
                    is_reset: false,
                    truncate_from: Some(LogIndex(first)),
                    entries: &[entries],
                };
                kept(log.write(write).await, WRITE);
            }
            Step::TruncateSuffix { from } => kept(log.truncate_suffix(LogIndex(from)).await, WRITE),
            Step::TruncatePrefix { through } => {
                kept(log.truncate_prefix(LogIndex(through)).await, WRITE);
            }
            Step::Reset => kept(log.truncate_prefix(LogIndex(u64::MAX)).await, WRITE),
            Step::Vote { term } => kept(stable.save_hard_state(&vote(term)).await, WRITE),
        }
        say("done", step);
    }
}

fn start(test: &str, dir: &Path, seed: u64) -> Child {
    let child = Command::new(kept(env::current_exe(), CHILD))
        .args([test, "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    kept(child, CHILD)
}
