//! Standard error, which may be gone, full or stuck. What cannot be written there is dropped: nothing a
//! program does is worth less than telling of it.
//!
//! Tools write to it as they go. A server must not even wait for whoever reads it, so there a thread
//! writes what waits in a queue with a bound ([`in_the_background`]).

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::{self, IsTerminal, Write},
    panic, thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::{EnvFilter, fmt as lines, layer::SubscriberExt, util::SubscriberInitExt};

/// What waits to be written at most. More is dropped, and counted.
const WAITING_BYTES: usize = 1 << 20;
/// How long the end of a server waits until what it has said is written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// As [`eprintln!`], which panics when nobody reads any more.
macro_rules! tell {
    ($($text:tt)*) => { $crate::log::line(format_args!($($text)*)) };
}
pub(crate) use tell;

static QUEUE: Queue = Queue {
    state: Mutex::new(State {
        waiting: Vec::new(),
        dropped: 0,
        has_writer: false,
        is_writing: false,
    }),
    changed: Condvar::new(),
};

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<u8>,
    /// Lines since the last one that was let in.
    dropped: u64,
    has_writer: bool,
    is_writing: bool,
}

/// Lets the library's lines through that match. The filter is a right one: the command line has seen to
/// that. What the library says of wrong disks is left out, because [`membership`](crate::membership) says
/// it with the command that helps.
pub(crate) fn begin(filter: &str) {
    let filter = EnvFilter::new(format!("{filter},raft::wrong_disk=off"));
    let is_terminal = io::stderr().is_terminal();
    let lines = lines::layer().with_writer(|| Lines).with_ansi(is_terminal);
    // It would report errors with `eprintln!`.
    let lines = lines.log_internal_errors(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// From now on nobody waits until something is written.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn in_the_background() -> io::Result<()> {
    thread::Builder::new().name("log".to_owned()).spawn(write_for_ever)?;
    QUEUE.state.lock().has_writer = true;
    panic::set_hook(Box::new(|what| {
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => tell!("{what}\n{backtrace}"),
            _ => tell!("{what}"),
        }
    }));
    Ok(())
}

/// Writes a line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    put(format!("{text}\n").as_bytes());
}

/// Waits until what was said is written, or for as long as that is worth.
pub(crate) fn end() {
    let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
    let mut state = QUEUE.state.lock();
    if state.has_writer {
        QUEUE.changed.wait_while_for(&mut state, is_busy, LAST_WORDS);
    }
}

fn put(text: &[u8]) {
    let mut state = QUEUE.state.lock();
    if !state.has_writer {
        drop(state);
        let _ = io::stderr().write_all(text);
        return;
    }
    if WAITING_BYTES < state.waiting.len() + text.len() {
        state.dropped += 1;
        return;
    }
    let dropped = std::mem::take(&mut state.dropped);
    if dropped != 0 {
        let words = format!("kv: {dropped} lines were not logged: nobody read them in time\n");
        state.waiting.extend_from_slice(words.as_bytes());
    }
    state.waiting.extend_from_slice(text);
    QUEUE.changed.notify_all();
}

fn write_for_ever() {
    let mut taken = Vec::new();
    loop {
        let mut state = QUEUE.state.lock();
        state.is_writing = false;
        QUEUE.changed.notify_all();
        QUEUE.changed.wait_while(&mut state, |state| state.waiting.is_empty());
        state.is_writing = true;
        taken.clear();
        std::mem::swap(&mut taken, &mut state.waiting);
        drop(state);
        let _ = io::stderr().write_all(&taken);
    }
}

/// Where the library's lines go, whole ones at a time.
struct Lines;

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
