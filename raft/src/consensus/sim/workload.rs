//! What clients and operators do: propose, read, change the membership, transfer leadership, restore,
//! change the settings.

use super::{
    checks::{Check, requests::Transfer},
    plan::{Moment, other_rules},
    world::{Event, World, address_of, id_of},
};
use crate::{
    configuration::{Configuration, ConfigurationChange},
    consensus::{ChangeRefusal, Consensus, Rules},
    log::EntryPayload,
    position::LogIndex,
};

const MAX_VOTERS: usize = 5;

impl World {
    /// One request, and the time of the next.
    pub(super) fn client(&mut self) -> Check {
        if self.is_calm {
            return Ok(());
        }
        let clients = self.plan.clients;
        let next = self.now + 1 + self.dice.around(clients.pause);
        self.schedule(next, Event::Client);
        let Some(server) = self.whom_to_ask() else { return Ok(()) };
        if self.servers[server].frozen_until > self.now {
            return Ok(());
        }
        let mut throw = self.dice.within(0..=999);
        let mut is_in = |share: u64| {
            let is_it = throw < share;
            throw = throw.saturating_sub(share);
            is_it
        };
        if is_in(clients.verify_per_mille) {
            self.verify(server)
        } else if is_in(clients.change_per_mille) {
            self.change_membership(server)
        } else if is_in(clients.transfer_per_mille) {
            self.transfer(server)
        } else if is_in(self.plan.restores.per_mille) {
            self.begin_restore(server)
        } else {
            let count = self.dice.within(1..=clients.max_batch);
            self.propose(server, count).map(|_| ())
        }
    }

    /// Somebody who believes to lead; sometimes anybody.
    fn whom_to_ask(&mut self) -> Option<usize> {
        if self.dice.chance(20) {
            return Some(self.dice.below(self.servers.len()));
        }
        if self.plan.clients.knows_the_leader {
            return self.newest_leader();
        }
        let all = 0..self.servers.len();
        let leaders: Vec<usize> = all.filter(|it| self.servers[*it].leads().is_some()).collect();
        (!leaders.is_empty()).then(|| self.dice.pick(&leaders))
    }

    /// Proposes new commands, or now and then a barrier; returns whether they were accepted.
    pub(super) fn propose(
        &mut self,
        server: usize,
        count: u64,
    ) -> Result<Option<LogIndex>, String> {
        let is_barrier = self.dice.chance(30);
        let Some(core) = self.servers[server].core() else { return Ok(None) };
        // Back-pressure: requests are not read now.
        if core.is_saturated() {
            return Ok(None);
        }
        let payloads: Vec<EntryPayload> = if is_barrier {
            vec![EntryPayload::Barrier]
        } else {
            (0..count).map(|_| self.new_command()).collect()
        };
        self.say(server, format_args!("<- propose {} entries", payloads.len()));
        let result = self.enter(server, |core, now| core.propose(now, payloads.clone()));
        let result = result.map(|result| result.map_err(ChangeRefusal::from));
        let accepted = self.accept(server, result, payloads)?;
        self.settle(server)?;
        Ok(accepted)
    }

    /// Notes that a client waits for these entries.
    fn accept(
        &mut self,
        server: usize,
        result: Option<Result<LogIndex, ChangeRefusal>>,
        payloads: Vec<EntryPayload>,
    ) -> Result<Option<LogIndex>, String> {
        let Some(alive) = &mut self.servers[server].alive else { return Ok(None) };
        match result {
            Some(Ok(first)) => {
                for (offset, payload) in payloads.into_iter().enumerate() {
                    let index = first.plus(offset);
                    alive.requests.accepted(index, alive.core.term(), payload)?;
                }
                Ok(Some(first))
            }
            Some(Err(refusal)) => {
                let leads = alive.leading.is_some();
                ensure!(
                    leads != matches!(refusal, ChangeRefusal::NotLeader { .. }),
                    "a server that leads: {leads} refuses with {refusal:?}"
                );
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn verify(&mut self, server: usize) -> Check {
        let committed = self.checks.committed.last();
        self.say(server, format_args!("<- verify, {committed} is committed"));
        let result = self.enter(server, Consensus::verify_leader);
        if let Some(Ok(verification)) = result
            && let Some(alive) = &mut self.servers[server].alive
        {
            let base = alive.log.base();
            ensure!(
                base.index < verification.read_index
                    || !self.checks.committed.is_open_restore(base),
                "law 12: a read of {base}, a restore that is not committed"
            );
            alive.reads.asked(verification, committed);
        }
        self.settle(server)?;
        self.at_moment(server, Moment::Asked);
        Ok(())
    }

    fn change_membership(&mut self, server: usize) -> Check {
        let Some(core) = self.servers[server].core() else { return Ok(()) };
        let latest = core.latest_configuration().clone();
        let Some(change) = self.some_change(&latest.configuration) else { return Ok(()) };
        let prev_index = self.dice.coin().then_some(latest.index);
        let Ok(next) = latest.configuration.changed(&change) else { return Ok(()) };
        // Those who have lost their disks, or never had anything on them, do not vote.
        let is_safe = !self.plan.disks.keep_incarnations || self.has_electorate(&next, None);
        if !is_safe || self.has_open_restore() {
            return Ok(());
        }
        self.change(server, &change, prev_index)
    }

    /// Asks a server to change the membership.
    pub(super) fn change(
        &mut self,
        server: usize,
        change: &ConfigurationChange,
        prev_index: Option<LogIndex>,
    ) -> Check {
        self.say(server, format_args!("<- {change:?}"));
        let result =
            self.enter(server, |core, now| core.change_configuration(now, change, prev_index));
        let Some(core) = self.servers[server].core() else { return Ok(()) };
        // With what it has learned of its members.
        let next = core.latest_configuration().configuration.clone();
        self.accept(server, result, vec![EntryPayload::Configuration(next)])?;
        self.settle(server)
    }

    fn some_change(&mut self, latest: &Configuration) -> Option<ConfigurationChange> {
        let server = self.dice.below(self.servers.len());
        let (id, address) = (id_of(server), address_of(server));
        let voters = latest.voters().count();
        let may_shrink = 1 < voters || !latest.is_voter(&id);
        let may_grow = voters < MAX_VOTERS;
        match self.dice.below(5) {
            0 | 1 if may_grow => Some(ConfigurationChange::AddVoter { id, address }),
            2 => Some(ConfigurationChange::AddNonvoter { id, address }),
            3 if may_shrink => Some(ConfigurationChange::DemoteVoter { id }),
            4 if may_shrink => Some(ConfigurationChange::RemoveServer { id }),
            _ => None,
        }
    }

    /// Gives some server other settings, and says when the next is to be given some.
    pub(super) fn random_reload(&mut self) -> Check {
        if self.is_calm {
            return Ok(());
        }
        let next = self.now + 1 + self.dice.around(self.plan.reload_pause);
        self.schedule(next, Event::Reload);
        let server = self.dice.below(self.servers.len());
        if self.now < self.servers[server].frozen_until {
            return Ok(());
        }
        self.reload_at_random(server)
    }

    pub(super) fn reload_at_random(&mut self, server: usize) -> Check {
        if self.is_calm {
            return Ok(());
        }
        let rules = other_rules(&mut self.dice);
        self.stats.reloads += 1;
        self.reload(server, rules)
    }

    /// Puts these settings in force at a server, or has it start with them.
    pub(super) fn reload(&mut self, server: usize, rules: Rules) -> Check {
        let it = &mut self.servers[server];
        let before = std::mem::replace(&mut it.rules, Rules { id: it.id.clone(), ..rules });
        let rules = it.rules.clone();
        let now = it.clock.local(self.now);
        let Some(alive) = &mut it.alive else { return Ok(()) };
        let shortened = before.leader_lease_timeout.saturating_sub(rules.leader_lease_timeout);
        alive.contact.shortened(shortened, now);
        let peers = alive.core.peers(it.clock.local(self.now));
        let is_narrower = alive.draining.begin(&peers, it.disk.pending_writes(), &rules);
        self.stats.narrowed += u64::from(is_narrower);
        self.say(server, format_args!("<- {rules:?}"));
        self.call(server, |core, now| core.set_rules(now, rules))
    }

    fn transfer(&mut self, server: usize) -> Check {
        let to = self.dice.coin().then(|| self.dice.below(self.servers.len()));
        let to_id = to.map(id_of);
        self.say(server, format_args!("<- transfer to {to_id:?}"));
        let result = self.enter(server, |core, now| core.transfer_leadership(now, to_id.as_ref()));
        if let Some(Ok(())) = result
            && let Some(alive) = &mut self.servers[server].alive
        {
            self.stats.transfers += 1;
            alive.requests.transfer_accepted(Transfer { term: alive.core.term(), to })?;
        }
        self.settle(server)
    }
}
