//! How far a long copy has come: a bar if somebody is looking, else a line now and then.

use std::{
    io::{self, IsTerminal, Read},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Between two lines. What is quicker than that needs none.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Counts what is read through it, and shows it on standard error.
pub(super) struct Progress<R> {
    inner: R,
    what: &'static str,
    bytes: u64,
    length: Option<u64>,
    bar: Option<ProgressBar>,
    next_line: Instant,
}

impl<R: Read> Progress<R> {
    /// `length` is how much there will be, if that is known.
    pub(super) fn new(inner: R, what: &'static str, length: Option<u64>) -> Self {
        let bar = io::stderr().is_terminal().then(|| bar(what, length));
        Self { inner, what, bytes: 0, length, bar, next_line: Instant::now() + BETWEEN_LINES }
    }

    /// How many bytes have come.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn show(&mut self) {
        match &self.bar {
            Some(bar) => bar.set_position(self.bytes),
            None if self.next_line <= Instant::now() => {
                match self.length {
                    Some(length) => eprintln!("{} {} of {length} bytes", self.what, self.bytes),
                    None => eprintln!("{} {} bytes", self.what, self.bytes),
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
        self.bytes += count as u64;
        self.show();
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
