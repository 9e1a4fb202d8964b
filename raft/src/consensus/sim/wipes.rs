//! Disks that are lost, and the operator who takes their servers back.
//!
//! A crash may take a server's disk with it: it comes back under its name on an empty one, or on one
//! with an earlier state, and either has another incarnation; or on an older copy of its own, which has
//! the incarnation that the others know. What it promised is gone, and the laws must hold all the same. An
//! operator then does what `rejoin.rs` does: out of the configuration with
//! the old disk, in again as a nonvoter with the new one, and when that has caught up, a voter again.

use super::{
    bug::Bug,
    checks::{Check, DiskId, is_majority},
    disk::Image,
    plan::ELECTION_TIMEOUT,
    server::Copy,
    world::{Event, World, address_of, id_of, server_of},
};
use crate::{
    configuration::{
        self, Configuration, ConfigurationChange, IndexedConfiguration, ServerId, Suffrage,
    },
    consensus::Mismatch,
    position::{LogId, LogIndex, Term},
    rpc::{AppendEntriesReply, AppendOutcome, Envelope, Message, Promised},
};

impl World {
    /// The disk a server runs on.
    pub(super) fn disk_of(&self, server: usize) -> DiskId {
        (server, self.servers[server].disk.image.incarnation)
    }

    /// What is, or was at last, on a disk; and what was there before an older copy took its place.
    pub(super) fn images_of(&self, disk: DiskId) -> impl Iterator<Item = &Image> {
        let it = &self.servers[disk.0];
        let is_there = disk == self.disk_of(disk.0);
        let present = is_there.then_some(&it.disk.image);
        let before = it.rolled_back.as_ref().filter(|_| is_there).map(|before| &before.image);
        let lost = self.lost_disks.get(&disk).into_iter().flatten();
        present.into_iter().chain(before).chain(lost)
    }

    /// The disk by which a configuration knows its member, whichever it is if it does not.
    pub(super) fn disk_meant(&self, member: &configuration::Server) -> DiskId {
        let server = server_of(&member.id);
        if member.incarnation == 0 { self.disk_of(server) } else { (server, member.incarnation) }
    }

    /// Whether the configuration committed there knows a disk that the one before does not.
    pub(super) fn is_recording(&self, index: LogIndex) -> bool {
        let known = |index| {
            let members = self.checks.committed.configuration_at(index).configuration;
            members.servers().iter().filter(|it| it.incarnation != 0).count()
        };
        known(index.prev()) < known(index)
    }

    /// A message is not admitted: its sender is told if it knows another disk.
    pub(super) fn refuse(&mut self, server: usize, envelope: &Envelope, why: Mismatch) -> Check {
        self.say(server, format_args!("not admitted: {why:?}"));
        let is_to_be_told = match why {
            Mismatch::Sender { .. } => {
                self.stats.wrong_senders += 1;
                false
            }
            Mismatch::Receiver { is_outdated, .. } => {
                self.stats.wrong_receivers += 1;
                !is_outdated
            }
            Mismatch::Empty => {
                self.stats.empty_voters += 1;
                false
            }
            Mismatch::Over => {
                self.stats.over += 1;
                false
            }
            Mismatch::Cluster { .. } => {
                self.stats.foreign += 1;
                false
            }
        };
        let Some(alive) = &mut self.servers[server].alive else { return Ok(()) };
        if !is_to_be_told || !alive.corrected.insert(envelope.from.clone()) {
            return Ok(());
        }
        let (term, outcome) = (Term::default(), AppendOutcome::StaleTerm);
        let hint = AppendEntriesReply { term, round: 0, outcome };
        self.send(server, server_of(&envelope.from), Message::AppendEntriesReply(hint))
    }

    /// A server has crashed: perhaps its disk is gone.
    pub(super) fn maybe_lose_disk(&mut self, server: usize) {
        let plan = self.plan.disks;
        let is_off = plan.loss_per_mille + plan.older_copy_per_mille == 0;
        let is_older = self.servers[server].rolled_back.is_some();
        if (is_off || self.is_calm) && !is_older {
            return;
        }
        if is_older {
            // It was not known yet whether it has kept what it promised.
            self.exchange_disk(server, Image::default());
            return;
        }
        if self.dice.chance(plan.older_copy_per_mille)
            && self.servers[server].copy.as_ref().is_some_and(|it| self.may_go_back_to(server, it))
        {
            self.put_older_copy_back(server);
        } else if self.dice.chance(plan.loss_per_mille) && self.may_lose_disk(server) {
            self.lose_disk(server);
        } else if self.dice.coin() {
            let it = &mut self.servers[server];
            it.backup = Some(it.disk.image.clone());
        }
    }

    /// Makes a copy of a disk that everybody knows, and has the server crash soon.
    pub(super) fn maybe_back_up(&mut self, server: usize) {
        let it = &self.servers[server];
        let is_fresh = |copy: &Copy| self.now < copy.at + ELECTION_TIMEOUT;
        let is_off = self.plan.disks.older_copy_per_mille == 0 || self.is_calm;
        if is_off || it.rolled_back.is_some() || it.copy.as_ref().is_some_and(is_fresh) {
            return;
        }
        if !self.dice.chance(100) || !self.is_known_to_all(server) {
            return;
        }
        let (image, at) = (self.servers[server].disk.image.clone(), self.now);
        self.servers[server].copy = Some(Copy { image, at });
        if self.dice.chance(700) {
            let at = self.now + self.dice.around(ELECTION_TIMEOUT / 3);
            self.schedule(at, Event::Crash { server });
        }
    }

    /// Whether every server that matters knows this one by its disk.
    pub(super) fn is_known_to_all(&self, server: usize) -> bool {
        let (id, disk) = (id_of(server), self.disk_of(server));
        let knows = |it: &IndexedConfiguration| {
            it.configuration.server(&id).is_some_and(|it| (server, it.incarnation) == disk)
        };
        disk.1 != 0 && self.configurations_in_force().iter().all(|(_, it)| knows(it))
    }

    /// Whether somebody finds out that an older copy of its disk has forgotten what was promised: all who
    /// were told remember it, are asked, and can be asked. What a leader has on its own disk nobody is told.
    pub(super) fn may_go_back_to(&self, server: usize, copy: &Copy) -> bool {
        let Copy { image, at } = copy;
        let others = || self.servers.iter().enumerate().filter(|(other, _)| *other != server);
        // From before it was told who belongs to the cluster, too.
        let mut members = image.log.configuration();
        if members.configuration.is_empty() {
            members = self.checks.committed.configuration_at(self.checks.committed.last());
        }
        let members = members.configuration;
        let same =
            |(_, it): &(usize, IndexedConfiguration)| it.configuration.has_members_of(&members);
        let is_member = |other: usize| members.server(&id_of(other)).is_some();
        image.incarnation == self.disk_of(server).1
            && !self.checks.election.has_led(image.hard_state.current_term, server)
            && self.configurations_in_force().iter().all(same)
            && others().all(|(other, it)| {
                !is_member(other)
                    || it.alive.is_some() && it.booted_at <= *at && it.rolled_back.is_none()
            })
            && self.may_lose_disk(server)
    }

    pub(super) fn put_older_copy_back(&mut self, server: usize) {
        let Some(Copy { image, .. }) = self.servers[server].copy.take() else { return };
        let last = image.log.last();
        self.say(server, format_args!("!! an older copy of its disk, which ends with {last}"));
        self.stats.older_copies += 1;
        let at = self.now;
        let it = &mut self.servers[server];
        it.monotonic = <_>::default();
        let image = std::mem::replace(&mut it.disk.image, image);
        it.rolled_back = Some(Copy { image, at });
    }

    /// Those who have been told more than an older copy knows of answer it, or it is found out. If one of
    /// them cannot, or forgets it, nothing is promised: the server is taken out of service.
    pub(super) fn look_at_older_copies(&mut self) {
        for server in 0..self.servers.len() {
            let Some(Copy { at, .. }) = self.servers[server].rolled_back else { continue };
            let mut others = self.servers.iter().enumerate().filter(|(other, _)| *other != server);
            let somebody_forgets = others.any(|(_, it)| it.alive.is_none() || at < it.booted_at);
            let (now, it) = (self.now, &self.servers[server]);
            let Some(alive) = &it.alive else { continue };
            let local = it.clock.local(now);
            match alive.core.disk.has_all_answers(local) {
                Some(true) => {
                    self.stats.harmless_copies += 1;
                    self.servers[server].rolled_back = None;
                }
                // Whether it asks or not, it has to be patient.
                _ if !somebody_forgets && local < alive.patient_until => {}
                Some(false) | None => {
                    self.stats.unnoticed_copies += 1;
                    self.take_out_of_service(server);
                }
            }
        }
    }

    /// A server was told that its disk is an older copy.
    pub(super) fn rolled_back(
        &mut self,
        server: usize,
        told: &ServerId,
        promised: Promised,
    ) -> Check {
        let now = self.now;
        let it = &mut self.servers[server];
        let (image, matched) = (&it.disk.image, promised.matched);
        // What an earlier life has promised may be told late: this one has promised as much by then.
        let is_late = it.alive.as_ref().is_some_and(|alive| alive.is_older_copy)
            && promised.term <= image.hard_state.current_term
            && (matched == LogId::ZERO || image.covers(matched, |_| true));
        ensure!(
            it.rolled_back.is_some() || is_late,
            "law 7: a disk has lost what it told {told} it had: {promised}"
        );
        let image = image.clone();
        it.rolled_back.get_or_insert(Copy { image, at: now });
        self.stats.found_out += 1;
        self.take_out_of_service(server);
        Ok(())
    }

    /// The server ends, and its disk is another one from then on.
    pub(super) fn take_out_of_service(&mut self, server: usize) {
        self.crash(server);
    }

    fn lose_disk(&mut self, server: usize) {
        let is_rollback = self.dice.chance(self.plan.disks.rollback_per_mille);
        let may_roll_back = self.may_roll_back(server);
        let it = &mut self.servers[server];
        let backup = it.backup.take().filter(|_| is_rollback && may_roll_back);
        self.stats.wiped += u64::from(backup.is_none());
        self.stats.rolled_back += u64::from(backup.is_some());
        self.exchange_disk(server, backup.unwrap_or_default());
    }

    pub(super) fn exchange_disk(&mut self, server: usize, image: Image) {
        let disk = self.disk_of(server);
        let incarnation = match self.bug {
            Some(Bug::KeepsIncarnation) => disk.1,
            _ => self.plan.disks.new_incarnation(&mut self.dice),
        };
        let last = image.log.last();
        self.say(server, format_args!("!! its disk is lost, the new one ends with {last}"));
        let it = &mut self.servers[server];
        let lost = std::mem::replace(&mut it.disk.image, Image { incarnation, ..image });
        it.monotonic = <_>::default();
        let lost = it.rolled_back.take().map(|before| before.image).into_iter().chain([lost]);
        it.copy = None;
        it.copies.clear();
        it.has_lost_disks = true;
        self.lost_disks.insert(disk, lost.collect());
    }

    /// See [`Disks`](super::plan::Disks).
    pub(super) fn may_lose_disk(&self, server: usize) -> bool {
        let (id, disk) = (id_of(server), self.disk_of(server));
        let is_known = |it: &IndexedConfiguration| {
            it.configuration.server(&id).map(|member| (server, member.incarnation)) == Some(disk)
        };
        let committed = self.checks.committed.configuration_at(self.checks.committed.last());
        let knows = |(other, it): &(usize, IndexedConfiguration)| {
            let is_concerned = committed.configuration.server(&id_of(*other)).is_some()
                || it.configuration.server(&id).is_some();
            !is_concerned || is_known(it)
        };
        let in_force = self.configurations_in_force();
        let newest = in_force.iter().map(|(_, it)| it).filter(|it| committed.index <= it.index);
        is_known(&committed)
            && in_force.iter().all(knows)
            && newest
                .chain([&committed])
                .all(|it| self.has_electorate(&it.configuration, Some(server)))
    }

    /// Whether none of those whom it would ask for a vote has a log that is behind that of the earlier
    /// state: a candidate from whom there is something to learn is admitted from any disk.
    fn may_roll_back(&self, server: usize) -> bool {
        let Some(backup) = &self.servers[server].backup else { return false };
        let members = backup.log.configuration().configuration;
        let others = members.servers().iter().map(|it| server_of(&it.id));
        let mut others = others.filter(|other| *other != server);
        others.all(|other| backup.log.last() <= self.servers[other].disk.image.log.last())
    }

    /// What every server goes by, and would after a crash.
    pub(super) fn configurations_in_force(&self) -> Vec<(usize, IndexedConfiguration)> {
        let servers = self.servers.iter().enumerate();
        let both = servers.flat_map(|(server, it)| {
            let alive = it.core().map(|core| core.latest_configuration().clone());
            let on_disk = it.disk.image.log.configuration();
            alive.into_iter().chain([on_disk]).map(move |it| (server, it))
        });
        both.collect()
    }

    /// Whether this voter may vote for somebody who knows it so: it has the disk that is known, or
    /// none is known and its own is not empty.
    fn may_vote(&self, voter: &configuration::Server) -> bool {
        let image = &self.servers[server_of(&voter.id)].disk.image;
        voter.incarnation == image.incarnation || voter.incarnation == 0 && !image.is_empty()
    }

    /// Whether a majority, without that server, may vote for somebody with this configuration, and the
    /// cluster does not go on without them.
    pub(super) fn has_electorate(&self, members: &Configuration, without: Option<usize>) -> bool {
        let voters: Vec<&configuration::Server> = members.voters().collect();
        is_majority(&voters, |voter| {
            let server = server_of(&voter.id);
            self.may_vote(voter) && !self.is_endangered(server) && without != Some(server)
        })
    }

    /// Whether nobody can be elected any more: those who have heard of the cluster are too few, or
    /// those who have not followed a restore in vain. Somebody with an empty disk votes only for
    /// candidates with no more than the first entry: it may have had more itself.
    pub(super) fn is_stuck(&self) -> bool {
        let mut candidates = self.servers.iter().filter_map(|it| it.core());
        let is_possible = self.plan.disks.keep_incarnations || 0 < self.stats.diverged;
        is_possible
            && candidates.all(|candidate| {
                let members = &candidate.latest_configuration().configuration;
                let voters: Vec<&configuration::Server> = members.voters().collect();
                let may_win = members.is_voter(candidate.id());
                !may_win
                    || !is_majority(&voters, |voter| {
                        let Some(core) = self.servers[server_of(&voter.id)].core() else {
                            return false;
                        };
                        core.last() <= candidate.last()
                            && (candidate.latest_configuration().index <= LogIndex(1)
                                || self.may_vote(voter))
                    })
            })
    }

    /// The next step of taking servers back, and the time of the one after.
    pub(super) fn operator(&mut self) -> Check {
        let next = self.now + 1 + self.dice.around(self.plan.disks.rejoin_pause);
        self.schedule(next, Event::Operator);
        let Some(leader) = self.newest_leader() else { return Ok(()) };
        if self.now < self.servers[leader].frozen_until {
            return Ok(());
        }
        for server in 0..self.servers.len() {
            self.maybe_empty_disk(server);
            let Some(change) = self.step_of_rejoining(server, leader) else { continue };
            let Some(core) = self.servers[leader].core() else { break };
            let next = core.latest_configuration().configuration.changed(&change);
            if next.is_ok_and(|next| self.has_electorate(&next, None)) {
                return self.change(leader, &change, None);
            }
        }
        Ok(())
    }

    /// A diverged server that nobody has for a member any more, on the disk it has, gets another one. One
    /// that somebody does, or whose disk nobody can tell from another, stays out.
    fn maybe_empty_disk(&mut self, server: usize) {
        let (id, disk) = (id_of(server), self.disk_of(server).1);
        let committed = self.checks.committed.configuration_at(self.checks.committed.last());
        let committed = committed.configuration;
        let is_protected = |(other, it): &(usize, IndexedConfiguration)| {
            let known = it.configuration.server(&id).map(|member| member.incarnation);
            let is_new = it.configuration.is_empty() && committed.server(&id_of(*other)).is_some();
            *other == server || !is_new && known.is_none_or(|known| known == disk)
        };
        if self.servers[server].is_diverged
            && disk != 0
            && committed.server(&id).is_none()
            && self.configurations_in_force().iter().all(is_protected)
        {
            self.empty_disk(server);
        }
    }

    fn step_of_rejoining(&mut self, server: usize, leader: usize) -> Option<ConfigurationChange> {
        let (id, address) = (id_of(server), address_of(server));
        let incarnation = self.servers[server].disk.image.incarnation;
        let members = &self.servers[leader].core()?.latest_configuration().configuration;
        let member = members.server(&id).cloned();
        let it = &mut self.servers[server];
        match member {
            Some(member)
                if it.is_diverged
                    || it.has_lost_disks && ![0, incarnation].contains(&member.incarnation) =>
            {
                it.rejoins_as = it.rejoins_as.or(Some(member.suffrage));
                Some(ConfigurationChange::RemoveServer { id })
            }
            None if it.is_diverged => None,
            None => it.rejoins_as.map(|_| ConfigurationChange::AddNonvoter { id, address }),
            Some(member) => {
                let is_to_vote = it.rejoins_as? == Suffrage::Voter && !member.is_voter();
                if is_to_vote && !it.disk.image.is_empty() {
                    return Some(ConfigurationChange::AddVoter { id, address });
                }
                if !is_to_vote && member.incarnation == incarnation {
                    it.rejoins_as = None;
                    self.stats.rejoined += 1;
                }
                None
            }
        }
    }
}

impl Image {
    /// Whether it knows of no cluster. A snapshot that was not adopted tells nothing before a start.
    pub(super) fn is_empty(&self) -> bool {
        self.log.last() == LogId::ZERO
    }
}
