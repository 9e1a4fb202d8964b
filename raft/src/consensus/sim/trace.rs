//! What happened, line by line: printed when a seed is replayed, hashed to prove that a run can be
//! replayed at all, and otherwise not even formatted.

use std::fmt;

#[derive(Clone, Debug)]
pub(super) enum Trace {
    Off,
    Print,
    Hash(u64),
}

impl Trace {
    pub(super) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    pub(super) fn line(&mut self, now: u64, who: &str, what: fmt::Arguments<'_>) {
        let text = || format!("{:>6}.{:03} {who:<3} {what}", now / 1000, now % 1000);
        match self {
            Self::Off => {}
            Self::Print => println!("{}", text()),
            Self::Hash(hash) => {
                // FNV-1a.
                for byte in text().bytes() {
                    *hash = (*hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
    }
}
