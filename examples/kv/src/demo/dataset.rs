//! What the demo writes: a table from the real world, then as many generated pairs as asked for.
//!
//! Every key is written with one value only. So a write whose outcome is unknown may simply be
//! written again: whichever of the two takes effect, and even if both do, the result is the same.

use bytes::Bytes;

/// The time zones of the tz database; its header says that it is in the public domain.
const ZONES: &str = include_str!("../../data/zone1970.tab");

/// A key and its value.
pub(super) type Pair = (Bytes, Bytes);

/// `tz:<zone>` to the countries, the coordinates and the remark of each time zone.
pub(super) fn zones() -> Vec<Pair> {
    let rows = ZONES.lines().filter(|line| !line.starts_with('#'));
    let pair = |row: &str| {
        let mut cells = row.split('\t');
        let (countries, place, zone) = (cells.next()?, cells.next()?, cells.next()?);
        let remark = cells.next().unwrap_or_default();
        let value = format!("{countries} {place} {remark}");
        Some((Bytes::from(format!("tz:{zone}")), Bytes::from(value.trim_end().to_owned())))
    };
    rows.filter_map(pair).collect()
}

/// The generated pair with this number.
pub(super) fn generated(number: u32) -> Pair {
    let key = format!("write:{number:08}");
    let value = format!("value {number} of the demo, {:016x}", u64::from(number).pow(2));
    (key.into(), value.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_table_is_read() {
        let zones: BTreeMap<_, _> = zones().into_iter().collect();
        assert!(300 < zones.len());
        let berlin = &zones[&Bytes::from("tz:Europe/Berlin")];
        assert!(berlin.starts_with(b"DE,"), "{berlin:?}");
        assert!(berlin.windows(11).any(|part| part == b"+5230+01322"), "{berlin:?}");
    }
}
