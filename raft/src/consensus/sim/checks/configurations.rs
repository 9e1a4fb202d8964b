//! One membership change at a time (thesis §4.1): a log has at most one configuration that is not
//! committed, consecutive ones differ in one server, apart from disks that become known, and a leader
//! changes nothing before it has committed an entry of its own term.

use super::{Check, committed::Committed};
use crate::{
    configuration::{Configuration, IndexedConfiguration, Server},
    position::{LogId, Term},
};

/// A server appends a configuration at `id` to a log whose newest one was `before`, at `before_id`.
pub(crate) fn appended(
    id: LogId,
    next: &Configuration,
    before: &IndexedConfiguration,
    before_id: LogId,
    committed: &Committed,
) -> Check {
    ensure!(
        committed.has(before_id),
        "the configuration at {id} follows one at {before_id} that is not committed"
    );
    ensure!(next.validate().is_ok(), "the configuration at {id} is not valid: {next}");
    let before = &before.configuration;
    let all = before.servers().iter().chain(next.servers());
    let member = |of: &Configuration, it: &Server| {
        of.server(&it.id).map(|known| (known.suffrage, known.address.clone()))
    };
    let mut changed: Vec<_> =
        all.filter(|it| member(before, it) != member(next, it)).map(|it| &it.id).collect();
    changed.sort();
    changed.dedup();
    ensure!(
        before.is_empty() || changed.len() <= 1,
        "the configuration at {id} changes more than one server: {before} to {next}"
    );
    for Server { id: member, incarnation, .. } in next.servers() {
        let known = before.server(member).map_or(0, |it| it.incarnation);
        ensure!(
            known == 0 || known == *incarnation,
            "the configuration at {id} exchanges the disk of {member}: {before} to {next}"
        );
    }
    Ok(())
}

/// The leader of `term` creates a configuration when the entry at its commit index is this one.
pub(crate) fn created(term: Term, commit: LogId) -> Check {
    ensure!(
        commit.term == term,
        "the leader of term {term} changes the configuration, but {commit} is its last commit"
    );
    Ok(())
}

/// The configuration in force is the newest one in the log.
pub(crate) fn in_force(believed: &IndexedConfiguration, log: &IndexedConfiguration) -> Check {
    ensure!(
        believed == log,
        "I6: the configuration in force is {} of {}, but the log has {} at {}",
        believed.configuration,
        believed.index,
        log.configuration,
        log.index
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{append_only::LeaderLogs, committed::Committer},
        *,
    };
    use crate::{
        log::{Entry, EntryPayload},
        position::LogIndex,
    };

    fn configuration(ids: &str) -> Configuration {
        Configuration::new(ids.chars().map(|id| Server::voter(id.to_string(), format!("{id}:1"))))
    }

    fn appended_after(before: u64, ids: &str, next: &str) -> Check {
        appended_to(before, configuration(ids), configuration(next))
    }

    fn appended_to(before: u64, configuration: Configuration, next: Configuration) -> Check {
        let mut committed = Committed::default();
        let payload = EntryPayload::Noop;
        let entry = Entry { term: Term(1), index: LogIndex(1), payload };
        let by = Committer { term: Term(1), is_leader: true, voters: &[((0, 7), true)] };
        committed.commit(&[entry], by, &LeaderLogs::default()).unwrap();
        let indexed = IndexedConfiguration { index: LogIndex(before), configuration };
        let before = LogId::new(1, before);
        appended(LogId::new(1, 9), &next, &indexed, before, &committed)
    }

    #[test]
    fn fires_on_a_second_change_that_is_not_committed() {
        appended_after(1, "abc", "abcd").unwrap();
        appended_after(2, "abc", "abcd").unwrap_err();
    }

    #[test]
    fn fires_on_a_step_of_two_servers() {
        appended_after(1, "abc", "ab").unwrap();
        appended_after(1, "abc", "abde").unwrap_err();
        appended_after(1, "abc", "abd").unwrap_err();
        appended_after(1, "a", "").unwrap_err();
    }

    #[test]
    fn fires_on_a_disk_that_is_exchanged() {
        let known = |disk| configuration("abc").with_incarnations(|_| Some(disk));
        appended_to(1, configuration("abc"), known(7)).unwrap();
        appended_to(1, known(7), known(7)).unwrap();
        appended_to(1, known(7), known(8)).unwrap_err();
        appended_to(1, known(7), configuration("abc")).unwrap_err();
    }

    #[test]
    fn fires_on_a_change_before_the_first_commit_of_the_term() {
        created(Term(2), LogId::new(2, 5)).unwrap();
        created(Term(2), LogId::new(1, 5)).unwrap_err();
    }

    #[test]
    fn fires_on_a_configuration_that_is_not_the_newest_of_the_log() {
        let at =
            |index| IndexedConfiguration { index: LogIndex(index), configuration: <_>::default() };
        in_force(&at(2), &at(2)).unwrap();
        in_force(&at(2), &at(3)).unwrap_err();
    }
}
