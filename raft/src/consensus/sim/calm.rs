//! Liveness: once the faults are over, one leader, progress for everybody, and then peace.

use super::{
    checks::Check,
    plan::ELECTION_TIMEOUT,
    world::{World, server_of},
};
use crate::{
    configuration,
    position::{LogId, Term},
};

/// Within this time everything has recovered.
const RECOVERY: u64 = 80 * ELECTION_TIMEOUT;
/// And for each entry that somebody may lack: a window of one entry needs a round trip each.
const CATCH_UP: u64 = 3_000;
/// Terms that recovery may take: fewer than one per election timeout of its first half.
const MAX_TERMS: u64 = 40;
/// For this long nothing may change then.
const PEACE: u64 = 12 * ELECTION_TIMEOUT;
const STEP: u64 = ELECTION_TIMEOUT / 2;
/// For this long at most may a server lead whose state machine stands still, while another could serve:
/// several times the patience of the settings, because a transfer may have to be tried again.
const MAX_VAIN: u64 = 20 * ELECTION_TIMEOUT;

impl World {
    /// Heals everything and demands: a leader, a new command applied by every member, equal logs,
    /// no open request, few terms; then no election and no new term at all.
    pub(super) fn demand_progress(&mut self) -> Check {
        self.heal_everything()?;
        if self.plan.machines.hangs_when_calm {
            self.demand_a_leader_that_serves()?;
        }
        let term_before = self.newest_term();
        // What the faults have delayed still comes.
        let late = self.network.weather.late_delay + 10 * ELECTION_TIMEOUT;
        let logs = self.servers.iter().filter_map(|it| it.alive.as_ref());
        let longest = logs.map(|it| it.log.last().index.0).max().unwrap_or(0);
        let not_before = self.now + late;
        let end = not_before + RECOVERY + longest * CATCH_UP;
        let mut probe = None;
        loop {
            let now = self.now + STEP;
            self.run_until(now)?;
            if let Some(leader) = self.newest_leader() {
                // A command is lost with its leader, and is then proposed anew.
                let is_there = |id: LogId| {
                    self.servers[leader].alive.as_ref().is_some_and(|it| it.log.has(id))
                };
                if !probe.is_some_and(is_there) {
                    let index = self.propose(leader, 1)?;
                    probe = index
                        .zip(self.servers[leader].leads())
                        .map(|(index, term)| LogId { term, index });
                }
            }
            let missing = self.what_is_missing(probe);
            if missing.is_empty() && not_before <= self.now {
                break;
            }
            if end <= self.now && !missing.is_empty() && self.is_stuck() {
                let has_diverged = self.servers.iter().any(|it| it.is_diverged);
                self.stats.stranded += u64::from(has_diverged);
                self.stats.unheard += u64::from(!has_diverged);
                return Ok(());
            }
            ensure!(
                missing.is_empty() || self.now < end,
                "no progress after the faults: {missing}"
            );
        }
        let terms = self.newest_term().0 - term_before.0;
        ensure!(terms <= MAX_TERMS, "recovery took {terms} terms");
        self.demand_peace()
    }

    /// A state machine hangs for good, that of the leader perhaps: leadership must not stay there as long as
    /// another could serve. Then it goes on.
    fn demand_a_leader_that_serves(&mut self) -> Check {
        let leader = self.newest_leader().filter(|_| self.dice.coin());
        let hung = leader.unwrap_or_else(|| self.dice.below(self.plan.voters));
        self.say(hung, format_args!("!! its state machine hangs for good"));
        self.servers[hung].machine_hangs_until = u64::MAX;
        let end = self.now + 2 * MAX_VAIN;
        // Since when it leads though another could.
        let mut in_vain = None;
        let mut did_lead_in_vain = false;
        while self.now < end {
            let now = self.now + STEP;
            self.run_until(now)?;
            if let Some(leader) = self.newest_leader() {
                self.propose(leader, 1)?;
            }
            let is_in_vain = self.newest_leader() == Some(hung) && self.could_be_replaced(hung);
            in_vain = is_in_vain.then(|| in_vain.unwrap_or(self.now));
            did_lead_in_vain |= is_in_vain;
            ensure!(
                in_vain.is_none_or(|since| self.now < since + MAX_VAIN),
                "{} leads with a state machine that stands still, although another could serve",
                self.servers[hung].id
            );
        }
        let is_replaced = self.newest_leader().is_some_and(|leader| leader != hung);
        self.stats.replaced_leaders += u64::from(did_lead_in_vain && is_replaced);
        self.servers[hung].machine_hangs_until = self.now;
        Ok(())
    }

    /// Whether another voter than this leader has all of its log and has applied all that is committed,
    /// while the leader has not.
    fn could_be_replaced(&self, leader: usize) -> bool {
        let Some(it) = &self.servers[leader].alive else { return false };
        let commit_index = it.core.commit_index();
        let could_serve = |voter: &configuration::Server| {
            let at = server_of(&voter.id);
            let server = &self.servers[at];
            let is_right_disk = [0, server.disk.image.incarnation].contains(&voter.incarnation);
            at != leader
                && is_right_disk
                && server.alive.as_ref().is_some_and(|other| {
                    other.log.last() == it.log.last() && commit_index <= other.machine.applied.index
                })
        };
        let voters = &it.core.latest_configuration().configuration;
        it.machine.applied.index < commit_index && voters.voters().any(could_serve)
    }

    /// What keeps the cluster from being well; empty if nothing does.
    fn what_is_missing(&self, probe: Option<LogId>) -> String {
        let Some(leader) = self.newest_leader() else { return "there is no leader".to_owned() };
        let Some(it) = &self.servers[leader].alive else { return "it is down".to_owned() };
        let Some(probe) = probe else { return "no command is accepted".to_owned() };
        if it.machine.applied.index < probe.index {
            return format!("{probe} is not applied by the leader");
        }
        let members = &it.core.latest_configuration().configuration;
        if !members.is_voter(it.core.id()) {
            return format!("the leader {} is no voter", it.core.id());
        }
        for member in members.servers() {
            let member_at = &self.servers[server_of(&member.id)];
            let Some(other) = &member_at.alive else {
                if member_at.is_dead {
                    continue;
                }
                return format!("{} is down", member.id);
            };
            if other.machine != it.machine || other.log.last() != it.log.last() {
                let peers = it.core.peers(self.servers[leader].clock.local(self.now));
                return format!(
                    "{} has {} and applied {}, the leader {} and {}, and believes {:?}",
                    member.id,
                    other.log.last(),
                    other.machine.applied,
                    it.log.last(),
                    it.machine.applied,
                    peers.iter().find(|peer| peer.id == member.id)
                );
            }
        }
        if self.plan.disks.keep_incarnations
            && let Some(member) = members
                .servers()
                .iter()
                .find(|it| it.incarnation == 0 && !self.servers[server_of(&it.id)].is_dead)
        {
            return format!("the disk of {} is not recorded", member.id);
        }
        for server in &self.servers {
            // A diverged server that is no member any more may have to stay out.
            if server.rejoins_as.is_some() && !server.is_diverged {
                return format!("{} is not taken back", server.id);
            }
            if let Some(alive) = &server.alive
                && 0 < alive.requests.open() + alive.reads.open()
            {
                return format!("{} has open requests", server.id);
            }
        }
        String::new()
    }

    fn demand_peace(&mut self) -> Check {
        let before = (self.newest_leader(), self.members_term());
        // Logs are equal if their ends are (law 3), but now there is time to look.
        if let Some(leader) = before.0.and_then(|it| self.servers[it].alive.as_ref()) {
            for member in leader.core.latest_configuration().configuration.servers() {
                let other = self.servers[server_of(&member.id)].alive.as_ref();
                ensure!(
                    other.is_none_or(|it| it.log.agrees_with(&leader.log)),
                    "law 3: the logs of the leader and of {} differ",
                    member.id
                );
            }
        }
        let end = self.now + PEACE;
        self.run_until(end)?;
        let after = (self.newest_leader(), self.members_term());
        ensure!(before == after, "no peace: leader and term go from {before:?} to {after:?}");
        Ok(())
    }

    fn newest_term(&self) -> Term {
        let terms = self.servers.iter().filter_map(|it| it.core()).map(|core| core.term());
        terms.max().unwrap_or_default()
    }

    /// The newest term of any member. Servers that were removed may campaign for ever.
    fn members_term(&self) -> Term {
        let leader = self.newest_leader().and_then(|it| self.servers[it].core());
        let Some(leader) = leader else { return Term(0) };
        let members = leader.latest_configuration().configuration.servers();
        let terms = members.iter().filter_map(|it| self.servers[server_of(&it.id)].core());
        terms.map(|core| core.term()).max().unwrap_or_default()
    }
}
