//! How figures are printed: spreads over several runs, units, aligned tables.

use std::fmt::Write as _;

/// Median, smallest and largest of the same figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    runs: usize,
}

impl Spread {
    /// The spread of `values`, or `None` when there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&values, 0.5)?,
            min: *values.first()?,
            max: *values.last()?,
            runs: values.len(),
        })
    }

    /// `median (min–max)`, or the one value there is.
    pub(crate) fn show(self, unit: fn(f64) -> String) -> String {
        if self.runs == 1 {
            return unit(self.median);
        }
        format!("{} ({}–{})", unit(self.median), unit(self.min), unit(self.max))
    }
}

/// The value below which a share `q` of the sorted `values` lies, interpolated.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let at = q * values.len().checked_sub(1)? as f64;
    let (below, above) = (values.get(at.floor() as usize)?, values.get(at.ceil() as usize)?);
    Some(below + (above - below) * at.fract())
}

/// [`Spread::show`] of what may not have been measured at all.
pub(crate) fn show(spread: Option<Spread>, unit: fn(f64) -> String) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.show(unit))
}

/// Three significant digits: `1.23`, `45.6`, `789`.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A plain number: `12.4 k`, `1.02 M`.
pub(crate) fn count(value: f64) -> String {
    match value.abs() {
        v if v >= 999_500.0 => format!("{} M", digits(value / 1e6)),
        v if v >= 9_995.0 => format!("{} k", digits(value / 1e3)),
        v if v >= 999.5 => format!("{value:.0}"),
        _ => digits(value),
    }
}

/// A time given in nanoseconds: `19.5 µs`, `1.64 ms`.
pub(crate) fn nanoseconds(value: f64) -> String {
    match value.abs() {
        v if v >= 999.5e6 => format!("{} s", digits(value / 1e9)),
        v if v >= 999.5e3 => format!("{} ms", digits(value / 1e6)),
        v if v >= 999.5 => format!("{} µs", digits(value / 1e3)),
        _ => format!("{value:.0} ns"),
    }
}

/// A factor: `1.35×`.
pub(crate) fn factor(value: f64) -> String {
    format!("{value:.2}×")
}

/// A share: `85.0 %`.
pub(crate) fn percent(value: f64) -> String {
    format!("{:.1} %", value * 100.0)
}

/// A number with no unit: `4.27`.
pub(crate) fn plain(value: f64) -> String {
    digits(value)
}

/// Bytes in binary units: `288 MiB`.
pub(crate) fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    match value.abs() {
        v if v >= KIB * KIB => format!("{} MiB", digits(value / KIB / KIB)),
        v if v >= KIB => format!("{} KiB", digits(value / KIB)),
        _ => format!("{value:.0} B"),
    }
}

/// A rate in binary units: `288 MiB/s`.
pub(crate) fn bytes_per_second(value: f64) -> String {
    format!("{}/s", bytes(value))
}

/// A titled table with notes under it. Text columns stand left, the others right.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    text_columns: usize,
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, text_columns: usize, header: &[&str]) -> Self {
        Self {
            title: title.into(),
            text_columns,
            header: header.iter().map(|&cell| cell.to_owned()).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table as text.
    pub(crate) fn render(&self) -> String {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|cells| cells.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> =
            (0..self.header.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = format!("\n{}\n\n", self.title);
        for (number, cells) in lines().enumerate() {
            let mut line = String::new();
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (left, right) =
                    if column < self.text_columns { (cell, &padding) } else { (&padding, cell) };
                let _ = write!(line, "  {left}{right}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if number == 0 {
                let rule = widths.iter().map(|&width| format!("  {}", "─".repeat(width)));
                text.extend(rule);
                text.push('\n');
            }
        }
        text.push('\n');
        for note in &self.notes {
            for (number, line) in wrap(note, 96).into_iter().enumerate() {
                let _ = writeln!(text, "{} {line}", if number == 0 { "  ·" } else { "   " });
            }
        }
        text
    }
}

/// Breaks a text into lines of at most `width` characters, at spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_middle_and_both_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(spread.show(plain), "2.00 (1.00–3.00)");
        assert_eq!(Spread::of([7.0]).unwrap().show(plain), "7.00");
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn quantiles_are_interpolated() {
        let values: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(10.5));
        assert_eq!(quantile(&values, 1.0), Some(20.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn units_keep_three_digits() {
        assert_eq!(count(1_251.4), "1251");
        assert_eq!(count(45_512.0), "45.5 k");
        assert_eq!(count(1_020_000.0), "1.02 M");
        assert_eq!(count(999_900.0), "1.00 M");
        assert_eq!(nanoseconds(19_530.0), "19.5 µs");
        assert_eq!(nanoseconds(1.64e9), "1.64 s");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0), "3.00 MiB");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("title", 1, &["clients", "applies/s"]);
        table.row(vec!["1".to_owned(), "45.5 k".to_owned()]);
        table.note("a note");
        let text = table.render();
        assert!(text.contains("  clients  applies/s\n"), "{text}");
        assert!(text.contains("  1           45.5 k\n"), "{text}");
        assert!(text.ends_with("  · a note\n"), "{text}");
    }
}
