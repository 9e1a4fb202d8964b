//! How far a long copy has come: a bar if somebody is looking, else a line now and then.

use std::{
    io::{self, IsTerminal, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::log::tell;

/// Between two lines. What is quicker than that needs none.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Counts what is read through it, and shows it on standard error.
pub(super) struct Progress<R> {
    inner: R,
    what: &'static str,
    bytes: Arc<AtomicU64>,
    length: Option<u64>,
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl<R: Read> Progress<R> {
    /// `length` is how much there will be, if that is known; `bytes` how much there has been.
    pub(super) fn new(
        inner: R,
        what: &'static str,
        length: Option<u64>,
        bytes: Arc<AtomicU64>,
    ) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(what, length));
        Self { inner, what, bytes, length, bar, next_line: Instant::now() + BETWEEN_LINES }
    }

    fn show(&mut self, bytes: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(bytes),
            None if self.next_line <= Instant::now() => {
                match self.length {
                    Some(length) => tell!("{} {bytes} of {length} bytes", self.what),
                    None => tell!("{} {bytes} bytes", self.what),
                }
                self.next_line = Instant::now() + BETWEEN_LINES;
            }
            None => {}
        }
    }
}

impl<R: Read> Read for Progress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let before = self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.show(before + count as u64);
        Ok(count)
    }
}

impl<R> Drop for Progress<R> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, length: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    let template = match length {
        Some(_) => "{msg} {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go",
        None => "{msg} {bytes}, {bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
