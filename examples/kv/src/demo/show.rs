//! What the demo prints: one aligned line for each event, and a bar while it writes.

use std::{cell::RefCell, io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::output::say;

/// The demo's voice. It counts the seconds since it was made.
pub(super) struct Show {
    started: Instant,
    bar: RefCell<Option<ProgressBar>>,
}

impl Show {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), bar: RefCell::new(None) }
    }

    /// Something happened.
    pub(super) fn event(&self, what: &str, text: impl AsRef<str>) {
        let line = format!("{:>6.1}s  {what:<12}  {}", self.elapsed().as_secs_f64(), text.as_ref());
        match &*self.bar.borrow() {
            // Above the bar, which stays the last line.
            Some(bar) => bar.suspend(|| say!("{line}")),
            None => say!("{line}"),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Begins to show how far `length` writes have come: as a bar, if anybody is looking.
    pub(super) fn begin(&self, length: u32) {
        if !std::io::stdout().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(length.into()), ProgressDrawTarget::stdout());
        let template = "         writing       {bar:40} {human_pos} of {human_len}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        *self.bar.borrow_mut() = Some(bar);
    }

    /// So many are done.
    pub(super) fn position(&self, done: u32) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_position(done.into());
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position != 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0_u64, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
