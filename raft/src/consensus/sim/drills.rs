//! Older copies of disks, on purpose. In random schedules they are rare, because much has to be well before one
//! may be put back, and they do harm only in an election that comes at once.
//!
//! Some seeds are therefore drills: a small cluster to which little else happens. Again and again it is cut in
//! parts, with one server, the bridge, in all of them: there is a leader, and somebody who lacks what is
//! committed, or who campaigns in the same term. Then the bridge crashes, soon after a vote perhaps, and starts
//! again at once, on the disk it had or on an older copy of it.
//!
//! As many other seeds change the membership all the time: an entry that only a removed server has is rare too.

use super::{
    checks::Check,
    dice::Dice,
    plan::{Disks, ELECTION_TIMEOUT, Moment, Plan, Strike, Trigger},
    server::{Copy, Server},
    world::{Event, World},
};
use crate::position::Term;

/// One of so many seeds is a drill, and another changes the membership often.
const ONE_IN: u64 = 8;
/// So many earlier states of a disk are kept, and its first.
const COPIES: usize = 8;

impl Plan {
    pub(super) fn of_seed(seed: u64, dice: &mut Dice) -> Self {
        let mut plan = Self::draw(dice);
        if seed.is_multiple_of(ONE_IN) {
            plan.become_drill(dice);
        } else if seed % ONE_IN == ONE_IN / 2 {
            plan.change_often(dice);
        }
        plan
    }

    /// The membership changes all the time, and a leader that has just changed it is cut off with one other
    /// server, which may then have its own removal and entries after it that nobody else has.
    fn change_often(&mut self, dice: &mut Dice) {
        self.voters = dice.pick(&[4, 5]);
        (self.nonvoters, self.spares, self.dead) = (0, dice.pick(&[0, 1]), 0);
        self.horizon = 60 * ELECTION_TIMEOUT;
        self.clients.change_per_mille = dice.pick(&[50, 100, 300]);
        self.clients.pause = dice.pick(&[2_000, 10_000]);
        self.restores.per_mille = 0;
        self.disks = Disks::default();
        self.disk.max_sync = self.disk.max_sync.min(3_000);
        self.network.max_delay = self.network.max_delay.min(5_000);
        let rest = ELECTION_TIMEOUT;
        let strike = Strike::IsolateWithOne;
        let trigger = |moment| Trigger { moment, strike, per_mille: 300, rest };
        self.triggers = vec![trigger(Moment::Won), trigger(Moment::Reconfigured)];
    }

    /// Leaves out whatever would make copies rare.
    fn become_drill(&mut self, dice: &mut Dice) {
        self.is_drill = true;
        self.voters = dice.pick(&[3, 3, 5, 5]);
        (self.nonvoters, self.spares, self.dead) = (0, 0, 0);
        self.horizon = 80 * ELECTION_TIMEOUT;
        self.timer_delay = self.timer_delay.min(500);
        self.apply_delay = self.apply_delay.min(200);
        (self.clients.change_per_mille, self.clients.transfer_per_mille) = (0, 0);
        self.clients.pause = 10_000;
        self.restores.per_mille = 0;
        self.snapshots.pause = 0;
        let rejoin_pause = ELECTION_TIMEOUT / 2;
        self.disks = Disks { keep_incarnations: true, rejoin_pause, ..Disks::default() };
        (self.faults.pause, self.faults.duration) = (0, 3 * ELECTION_TIMEOUT);
        self.triggers.clear();
        (self.machines.pause, self.machines.hangs_when_calm) = (0, false);
        self.reload_pause = 0;
        (self.disk.min_sync, self.disk.max_sync) = (50, 500);
        (self.disk.stall_per_mille, self.disk.report_delay) = (0, 0);
        let network = &mut self.network;
        (network.loss_per_mille, network.foreign_per_mille) = (0, 0);
        (network.min_delay, network.max_delay) = (200, 1_000);
        network.duplicate_per_mille = dice.pick(&[0, 200]);
        network.late_per_mille = dice.pick(&[0, 100, 300]);
        network.late_delay = ELECTION_TIMEOUT;
        network.keeps_order = false;
        // Without it more of them campaign in one term.
        self.rules.pre_vote = dice.chance(250);
    }
}

impl World {
    /// The next drill, if everybody is well, and the time of the one after.
    pub(super) fn drill(&mut self) -> Check {
        let next = self.now + ELECTION_TIMEOUT * self.dice.within(3..=8);
        self.schedule(next, Event::Drill);
        self.bridge = None;
        let is_well = |(server, it): (usize, &Server)| {
            it.alive.is_some() && it.rolled_back.is_none() && self.is_known_to_all(server)
        };
        let is_well = self.servers.iter().enumerate().all(is_well);
        let Some(leader) = self.newest_leader().filter(|_| is_well && !self.is_calm) else {
            return Ok(());
        };
        self.stats.drills += 1;
        let count = self.servers.len();
        let mut others: Vec<usize> = (0..count).collect();
        let bridge = if self.dice.coin() { leader } else { self.dice.below(count) };
        others.retain(|it| *it != bridge);
        let turn = self.dice.below(others.len());
        others.rotate_left(turn);
        // Two sides; or each for itself, where nobody can win and all ask the bridge again and again.
        let sides = if self.dice.coin() { 2 } else { others.len() };
        let side = |server| others.iter().position(|it| *it == server).map(|at| at % sides);
        self.partition(|from, to| match (side(from), side(to)) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        });
        self.bridge = Some(bridge);
        if bridge == leader {
            // Both sides campaign meanwhile, in one term perhaps; it learns of that before it votes.
            let pause = self.dice.within(ELECTION_TIMEOUT..=3 * ELECTION_TIMEOUT);
            self.servers[bridge].frozen_until = self.now + pause;
        } else {
            let at = self.now + self.dice.within(ELECTION_TIMEOUT / 2..=3 * ELECTION_TIMEOUT);
            self.schedule(at, Event::Relapse { server: bridge });
        }
        Ok(())
    }

    /// A moment has come at a server: if the bridge has voted, it crashes soon.
    pub(super) fn drill_at_moment(&mut self, server: usize, moment: Moment) {
        if self.bridge == Some(server) && moment == Moment::Voted && self.dice.chance(600) {
            let at = self.now + self.dice.within(0..=3_000);
            self.schedule(at, Event::Relapse { server });
        }
    }

    /// Keeps what is on the disk: its first state, and the newest ones.
    pub(super) fn keep_copy(&mut self, server: usize) {
        let at = self.now;
        let it = &mut self.servers[server];
        let is_new = it.disk.image.hard_state.current_term == Term(0);
        if !self.plan.is_drill || it.rolled_back.is_some() || is_new {
            return;
        }
        if COPIES < it.copies.len() {
            it.copies.remove(1);
        }
        it.copies.push(Copy { image: it.disk.image.clone(), at });
    }

    /// The one from before the newest vote, if it was in that term already, which is rare; or the first, the one
    /// from before the newest term or vote, or any.
    fn draw_copy(&mut self, server: usize) -> Option<Copy> {
        let it = &self.servers[server];
        let newest = &it.disk.image.hard_state;
        let is_before_vote = |copy: &&Copy| {
            let before = &copy.image.hard_state;
            before.current_term == newest.current_term && before.voted_for != newest.voted_for
        };
        let before_vote = it.copies.iter().rfind(is_before_vote);
        if before_vote.is_some() && self.dice.chance(800) {
            return before_vote.cloned();
        }
        match self.dice.below(4) {
            0 => it.copies.first().cloned(),
            1 => it.copies.iter().rfind(|copy| copy.image.hard_state != *newest).cloned(),
            _ => it.copies.get(self.dice.below(it.copies.len().max(1))).cloned(),
        }
    }

    /// The bridge crashes and is back at once, on an older copy of its disk as a rule.
    pub(super) fn relapse(&mut self, server: usize) -> Check {
        let it = &self.servers[server];
        let is_over = self.is_calm || self.bridge != Some(server);
        if is_over || it.alive.is_none() || it.rolled_back.is_some() {
            return Ok(());
        }
        self.servers[server].copy = None;
        if self.dice.chance(700) {
            let copy = self.draw_copy(server);
            self.servers[server].copy = copy.filter(|it| self.may_go_back_to(server, it));
        }
        if let Some(leader) = self.newest_leader().filter(|leader| *leader != server) {
            // Whoever could tell it is late.
            match self.dice.below(4) {
                0 => self.freeze(leader),
                1 => self.partition(|from, to| from == leader || to == leader),
                _ => {}
            }
        }
        self.crash(server);
        if self.servers[server].copy.is_some() {
            self.put_older_copy_back(server);
        } else {
            // Twice in a row: what was meant for one life comes in the next.
            let again_at = self.now + self.dice.within(3_000..=ELECTION_TIMEOUT);
            self.schedule(again_at, Event::Relapse { server });
        }
        let at = self.now + self.dice.within(200..=3_000);
        self.schedule(at, Event::Restart { server });
        if self.dice.chance(300) {
            let at = at + self.dice.within(1..=ELECTION_TIMEOUT / 2);
            self.schedule(at, Event::Hasten { server });
        }
        Ok(())
    }
}
