//! Lines with aligned columns.

use std::fmt::Write;

use serde_json::Value;

/// One line for each row.
pub(super) fn table<R: AsRef<[String]>>(rows: impl Iterator<Item = R>) -> String {
    let rows: Vec<_> = rows.collect();
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    // A remark ends its row before the last column. It does not widen the one it begins in.
    let is_remark = |row: &[String], column: usize| row.len() < columns && column + 1 == row.len();
    let width = |column: usize| {
        let cells = rows.iter().map(AsRef::as_ref).filter(|row| !is_remark(row, column));
        cells.filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a cell says of a value.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_remarks_do_not_widen_them() {
        let rows: [&[&str]; 3] =
            [&["ID", "ROLE", "TERM"], &["a", "leader", "2"], &["long", "does not answer"]];
        let rows = rows.map(|row| row.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
        let expected = "ID    ROLE    TERM\na     leader  2\nlong  does not answer\n";
        assert_eq!(table(rows.into_iter()), expected);
    }
}
