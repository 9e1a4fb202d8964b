//! A user's restore: the data is copied into the snapshot store of the leader, the core puts it in the
//! place of the log, and until a majority has followed it may all have been in vain. A server that the
//! cluster has gone on without ends, and an operator takes it back with an empty disk.

use super::{
    checks::Check,
    disk::Image,
    machine::Machine,
    plan::Moment,
    world::{Event, World},
};
use crate::{
    log::EntryPayload,
    position::{LogId, LogIndex},
};

impl World {
    /// Asks a server to replace the state of the cluster.
    pub(super) fn begin_restore(&mut self, server: usize) -> Check {
        let Some(alive) = &self.servers[server].alive else { return Ok(()) };
        if alive.copying.is_some() {
            return Ok(());
        }
        let last = alive.log.last().index;
        // The data may be from a cluster that has come further.
        let at_least = match self.dice.pick(&[0, 0, 3, 40]) {
            0 => LogIndex::ZERO,
            more => last.plus(more),
        };
        self.say(server, format_args!("<- restore, at least {at_least}"));
        let begun = self.enter(server, |core, now| core.begin_restore(now, at_least));
        if let Some(Ok((end, configuration))) = begun {
            ensure!(last.max(at_least) < end.index, "a restore ends with {end}, within the log");
            let snapshot = Machine { applied: end, hash: self.dice.number(), configuration };
            self.stats.user_restores += 1;
            let life = self.servers[server].life;
            let at = self.now + self.dice.around(self.plan.restores.delay);
            if let Some(alive) = &mut self.servers[server].alive {
                alive.copying = Some(end);
            }
            let event = if self.dice.chance(self.plan.restores.failure_per_mille) {
                Event::RestoreCopied { server, life, last: end, is_kept: false }
            } else {
                Event::RestoreKept { server, life, snapshot }
            };
            self.schedule(at, event);
        }
        self.settle(server)
    }

    /// The data is durable, unless it was given up when the leadership ended.
    pub(super) fn restore_kept(&mut self, server: usize, snapshot: Machine) -> Check {
        let last = snapshot.applied;
        // Whether one that was sent to it counts, it knows by then: that is asked as soon as it is whole.
        let alive = self.servers[server].alive.as_ref();
        if alive.and_then(|alive| alive.receiving.as_ref()).is_some_and(|it| it.is_whole) {
            let (at, life) = (self.some_delay(), self.servers[server].life);
            self.schedule(at, Event::RestoreKept { server, life, snapshot });
            return Ok(());
        }
        let leads = self.servers[server].leads() == Some(last.term);
        let is_kept = leads || self.dice.coin();
        if is_kept {
            self.say(server, format_args!("<- the data of {last} is durable"));
            self.checks.restore_is_durable(&snapshot);
            self.remove_unwanted(server, last);
            self.keep_snapshot(server, snapshot);
        }
        let at = self.now + self.dice.around(self.plan.restores.delay / 2);
        let life = self.servers[server].life;
        self.schedule(at, Event::RestoreCopied { server, life, last, is_kept });
        if is_kept {
            self.at_moment(server, Moment::Copied);
        }
        Ok(())
    }

    /// The core is told.
    pub(super) fn restore_copied(&mut self, server: usize, last: LogId, is_kept: bool) -> Check {
        if let Some(alive) = &mut self.servers[server].alive {
            alive.copying = None;
        }
        if !is_kept {
            self.say(server, format_args!("<- the data of {last} is not to be had"));
            self.stats.cancelled += 1;
            return self.call(server, |core, now| core.cancel_restore(now, last));
        }
        self.say(server, format_args!("<- the data of {last} is there"));
        let leads = self.servers[server].leads() == Some(last.term);
        let result = self.enter(server, |core, now| core.finish_restore(now, last));
        let Some(result) = result else { return Ok(()) };
        ensure!(
            result.is_ok() == leads,
            "law 15: a restore of term {} ends with {result:?} in a server that leads: {leads}",
            last.term
        );
        if let Ok(index) = result {
            self.stats.user_restores_finished += 1;
            self.settle(server)?;
            if let Some(alive) = &mut self.servers[server].alive
                && alive.leading == Some(last.term)
            {
                alive.requests.accepted(index, last.term, EntryPayload::Noop)?;
            }
            self.at_moment(server, Moment::Replaced);
            return Ok(());
        }
        if let Some(alive) = &mut self.servers[server].alive {
            alive.unwanted.push(last);
        }
        // It may fail, and is tried again when another snapshot comes.
        if !self.dice.chance(self.plan.restores.failure_per_mille) {
            let life = self.servers[server].life;
            let at = self.now + self.dice.around(self.plan.restores.delay / 2);
            self.schedule(at, Event::RestoreWithdrawn { server, life, last });
        }
        self.settle(server)
    }

    /// The data of a restore that has come to nothing is removed.
    pub(super) fn restore_withdrawn(&mut self, server: usize, last: LogId) {
        self.say(server, format_args!("the data of {last} is removed"));
        self.stats.withdrawn += 1;
        if let Some(alive) = &mut self.servers[server].alive {
            alive.unwanted.retain(|it| *it != last);
        }
        self.servers[server].disk.image.snapshots.retain(|snapshot| snapshot.applied != last);
    }

    /// A server has found out that the cluster has gone on without its state.
    pub(super) fn diverged(&mut self, server: usize, snapshot: LogId, entry: LogId) -> Check {
        ensure!(
            self.checks.committed.is_open_restore(snapshot),
            "law 4: the leader has {entry}, but snapshot {snapshot} is committed"
        );
        let term = self.servers[server].core().map(|core| core.term()).unwrap_or_default();
        ensure!(
            self.checks.leaders.has(term, entry) && !self.checks.leaders.has(term, snapshot),
            "{snapshot} diverges from the leader of term {term}, who does not have {entry}"
        );
        self.stats.diverged += 1;
        self.crash(server);
        self.servers[server].is_diverged = true;
        Ok(())
    }

    /// A server whose state counts for nothing is no member any more: it gets an empty disk.
    pub(super) fn empty_disk(&mut self, server: usize) {
        self.exchange_disk(server, Image::default());
        self.servers[server].is_diverged = false;
        self.schedule(self.now + 1, Event::Restart { server });
    }

    /// Whether the server has, or would have after a crash, a state that may come to nothing.
    pub(super) fn is_endangered(&self, server: usize) -> bool {
        let it = &self.servers[server];
        let is_open = |last| self.checks.committed.is_open_restore(last);
        it.is_diverged
            || it.alive.as_ref().is_some_and(|alive| is_open(alive.log.base()))
            || it.disk.image.choice().snapshot.is_some_and(|snapshot| is_open(snapshot.applied))
    }

    /// Whether a restore is under way that a membership change could turn into a disaster: those who
    /// follow it may be as many as it takes away.
    pub(super) fn has_open_restore(&self) -> bool {
        (0..self.servers.len()).any(|server| {
            let alive = self.servers[server].alive.as_ref();
            self.is_endangered(server) || alive.is_some_and(|alive| alive.copying.is_some())
        })
    }

    /// Counts what a crash has cut short.
    pub(super) fn note_cut_restore(&mut self, server: usize, base: LogId) {
        let image = &self.servers[server].disk.image;
        let newest = image.newest_snapshot().map_or(LogId::ZERO, |snapshot| snapshot.applied);
        if !self.checks.committed.is_open_restore(newest) {
            return;
        }
        let count = if base != newest {
            &mut self.stats.cut_before_adoption
        } else if image.log.base() != newest {
            &mut self.stats.cut_before_own_reset
        } else {
            &mut self.stats.cut_before_majority
        };
        *count += 1;
    }
}
