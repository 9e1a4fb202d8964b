//! The network: who can reach whom, and how late.

use super::{dice::Dice, plan::Weather};

#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) weather: Weather,
    /// `cut[from][to]`.
    cut: Vec<Vec<bool>>,
    /// The last delivery on each way, for those that keep their order.
    last: Vec<Vec<u64>>,
}

impl Network {
    pub(super) fn new(servers: usize, weather: Weather) -> Self {
        Self {
            weather,
            cut: vec![vec![false; servers]; servers],
            last: vec![vec![0; servers]; servers],
        }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from][to]
    }

    /// Cuts every way for which the predicate holds, and mends all others.
    pub(super) fn partition(&mut self, is_cut: impl Fn(usize, usize) -> bool) {
        for (from, row) in self.cut.iter_mut().enumerate() {
            for (to, cut) in row.iter_mut().enumerate() {
                *cut = from != to && is_cut(from, to);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.partition(|_, _| false);
    }

    /// When each copy of a message sent now arrives; none if it is lost.
    pub(super) fn arrivals(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        dice: &mut Dice,
    ) -> Vec<u64> {
        let weather = self.weather;
        if self.cut[from][to] || dice.chance(weather.loss_per_mille) {
            return Vec::new();
        }
        let copies = 1 + usize::from(dice.chance(weather.duplicate_per_mille));
        let arrival = |_| {
            let is_late = dice.chance(weather.late_per_mille);
            let extra = if is_late { dice.within(0..=weather.late_delay) } else { 0 };
            let at = now + extra + dice.within(weather.min_delay..=weather.max_delay);
            if !weather.keeps_order {
                return at;
            }
            let last = &mut self.last[from][to];
            *last = at.max(*last + 1);
            *last
        };
        (0..copies).map(arrival).collect()
    }
}
