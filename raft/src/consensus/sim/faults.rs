//! What goes wrong: at random times, and at chosen moments, since random schedules alone never meet
//! the famous bugs.

use super::{
    checks::Check,
    plan::{ELECTION_TIMEOUT, Moment, Strike},
    world::{Event, World},
};

impl World {
    /// A moment has come at a server: strikes, if the seed says so.
    pub(super) fn at_moment(&mut self, server: usize, moment: Moment) {
        if self.is_calm {
            return;
        }
        self.drill_at_moment(server, moment);
        for at in 0..self.plan.triggers.len() {
            let trigger = self.plan.triggers[at];
            if trigger.moment == moment
                && self.struck_at[at] + trigger.rest <= self.now
                && self.dice.chance(trigger.per_mille)
            {
                self.struck_at[at] = self.now;
                self.stats.strikes += 1;
                self.strike(server, trigger.strike);
            }
        }
    }

    fn strike(&mut self, server: usize, strike: Strike) {
        self.say(server, format_args!("!! {strike:?}"));
        match strike {
            Strike::Crash => self.crash(server),
            Strike::CrashSoon => {
                let at = self.now + self.dice.within(0..=5_000);
                self.schedule(at, Event::Crash { server });
            }
            Strike::Isolate => self.partition(|from, to| from == server || to == server),
            Strike::IsolateWithOne => {
                let other = self.dice.below(self.servers.len());
                let is_in = move |it| it == server || it == other;
                self.partition(move |from, to| is_in(from) != is_in(to));
            }
            Strike::Mute => self.partition(|from, _| from == server),
            Strike::Deafen => self.partition(|_, to| to == server),
            Strike::Stall => self.stall(server),
            Strike::Freeze => self.freeze(server),
        }
    }

    /// A fault at random, and the time of the next.
    pub(super) fn random_fault(&mut self) -> Check {
        let faults = self.plan.faults;
        let weights =
            [faults.crash, faults.crash_all, faults.partition, faults.stall, faults.freeze];
        let total: u64 = weights.iter().sum();
        if self.is_calm || total == 0 {
            return Ok(());
        }
        let mut throw = self.dice.within(0..=total - 1);
        let kind = weights.iter().position(|weight| {
            let is_it = throw < *weight;
            throw = throw.saturating_sub(*weight);
            is_it
        });
        // Leaders are worth more.
        let leader = self.newest_leader().filter(|_| self.dice.coin());
        let server = leader.unwrap_or_else(|| self.dice.below(self.servers.len()));
        match kind {
            Some(0) => self.crash(server),
            Some(1) => (0..self.servers.len()).for_each(|server| self.crash(server)),
            Some(2) => self.random_partition(server),
            Some(3) => self.stall(server),
            _ => self.freeze(server),
        }
        let next = self.now + self.dice.around(faults.pause);
        self.schedule(next, Event::Fault);
        Ok(())
    }

    fn random_partition(&mut self, server: usize) {
        let sides: Vec<bool> = self.servers.iter().map(|_| self.dice.coin()).collect();
        match self.dice.below(6) {
            0 => self.strike(server, Strike::Isolate),
            1 => self.strike(server, Strike::Mute),
            2 => self.strike(server, Strike::Deafen),
            3 => self.strike(server, Strike::IsolateWithOne),
            4 => self.partition(|from, to| sides[from] != sides[to]),
            // A bridge: one server reaches both sides.
            _ => self
                .partition(|from, to| from != server && to != server && sides[from] != sides[to]),
        }
    }

    pub(super) fn partition(&mut self, is_cut: impl Fn(usize, usize) -> bool) {
        self.stats.partitions += 1;
        self.network.partition(is_cut);
        self.partitions += 1;
        let at = self.now + self.dice.around(self.plan.faults.duration);
        self.schedule(at, Event::Heal { partition: self.partitions });
    }

    fn stall(&mut self, server: usize) {
        self.stats.stalls += 1;
        let until = self.now + self.dice.within(0..=10 * ELECTION_TIMEOUT);
        self.servers[server].disk_stalled_until = until;
    }

    pub(super) fn freeze(&mut self, server: usize) {
        self.stats.pauses += 1;
        self.say(server, format_args!("!! frozen"));
        let until = self.now + self.dice.around(self.plan.faults.duration);
        self.servers[server].frozen_until = until;
    }

    /// The state machine of some server stands still, and the time of the next.
    pub(super) fn random_hang(&mut self) -> Check {
        let plan = self.plan.machines;
        if self.is_calm || plan.pause == 0 {
            return Ok(());
        }
        let leader = self.newest_leader().filter(|_| self.dice.coin());
        let server = leader.unwrap_or_else(|| self.dice.below(self.servers.len()));
        self.stats.hangs += 1;
        self.say(server, format_args!("!! its state machine hangs"));
        self.servers[server].machine_hangs_until = self.now + self.dice.around(plan.duration);
        let next = self.now + self.dice.around(plan.pause);
        self.schedule(next, Event::Hang);
        Ok(())
    }

    /// Power loss: only the disk stays, with a random part of what was not synced.
    pub(super) fn crash(&mut self, server: usize) {
        let Some(alive) = self.servers[server].alive.take() else { return };
        self.stats.crashes += 1;
        self.servers[server].frozen_until = 0;
        let disk = &mut self.servers[server].disk;
        let steps = disk.steps();
        let kept = match self.dice.below(6) {
            0 => 0,
            1 => steps,
            2 => disk.steps_to_truncation().unwrap_or(0),
            3 => disk.steps_to_reset().unwrap_or(0),
            4 => disk.steps_to_reset().map_or(0, |steps| steps - 1),
            _ => self.dice.below(steps + 1),
        };
        self.stats.torn += u64::from(kept < steps);
        disk.crash(kept);
        self.note_crash(server, &alive);
        self.spoil_disk(server);
        self.say(server, format_args!("!! crash, {kept} of {steps} pending steps kept"));
        self.maybe_lose_disk(server);
        let means = [1_000, ELECTION_TIMEOUT / 2, 3 * ELECTION_TIMEOUT, 8 * ELECTION_TIMEOUT];
        let mean = self.dice.pick(&means);
        let at = self.now + self.dice.around(mean);
        self.schedule(at, Event::Restart { server });
    }
}
