//! All the randomness of a run, from its seed.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// One generator for everything: equal seeds throw equal dice.
#[derive(Clone, Debug)]
pub(super) struct Dice(Pcg64Mcg);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::new(u128::from(seed) << 64 | 0xd1ce))
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0.random()
    }

    pub(super) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// A number from zero to `n - 1`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// True in `per_mille` of a thousand cases.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        0 < per_mille && self.within(0..=999) < per_mille
    }

    pub(super) fn coin(&mut self) -> bool {
        self.chance(500)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A waiting time around `mean`: zero to twice as long.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        self.within(0..=2 * mean)
    }
}
