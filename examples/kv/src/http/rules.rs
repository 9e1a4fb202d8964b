//! What a change of members must not do by mistake.
//!
//! The library makes every change that keeps the cluster safe. Some keep it safe and of no use: a
//! member that is looked for where it is not, or voters of whom a majority is gone. They are refused
//! here with a sentence that says how to insist.

use std::{collections::BTreeMap, time::Duration};

use raft::{Configuration, ConfigurationChange, ServerAddress, ServerId};

/// Whom the leader has not heard from within an election timeout, and for how long.
pub(super) type Silent = BTreeMap<ServerId, Duration>;

/// A server and where it is said to be.
#[derive(Debug)]
pub(super) struct Addressed<'a> {
    pub(super) id: &'a ServerId,
    pub(super) address: &'a str,
}

/// The change that makes `wanted` a member with or without a vote; `None` if it is that already.
///
/// # Errors
/// When it would take a vote away, or change an address and that is not what `moves` says, or the
/// leader's to one that is not its own.
pub(super) fn addition(
    members: &Configuration,
    wanted: &Addressed<'_>,
    voter: bool,
    moves: bool,
    leader: &Addressed<'_>,
) -> Result<Option<ConfigurationChange>, String> {
    let Addressed { id, address } = *wanted;
    if let Some(known) = members.server(id) {
        if !voter && known.is_voter() {
            return Err(format!("{id} is a voter; `kv ctl demote {id}` takes its vote away"));
        }
        let is_moved = known.address.as_str() != address;
        if is_moved && !moves {
            return Err(format!(
                "{id} is a member already, at {}; to change its address to {address}, start it there \
                 with its data, and insist with --move (\"move\": true)",
                known.address
            ));
        }
        if is_moved && id == leader.id && address != leader.address {
            return Err(format!(
                "{id} leads and runs at {}: its address cannot become {address}; hand leadership \
                 over, start it there, and try again",
                leader.address
            ));
        }
        if !is_moved && known.is_voter() == voter {
            return Ok(None);
        }
    }
    let (id, address) = (id.clone(), ServerAddress::from(address));
    Ok(Some(match voter {
        true => ConfigurationChange::AddVoter { id, address },
        false => ConfigurationChange::AddNonvoter { id, address },
    }))
}

/// Whether `id` may lose its vote.
///
/// # Errors
/// When the voters that remain could not commit anything, unless it is `forced`.
pub(super) fn departure(
    members: &Configuration,
    id: &ServerId,
    silent: &Silent,
    forced: bool,
) -> Result<(), String> {
    let left = || members.voters().map(|voter| &voter.id).filter(|voter| *voter != id);
    let gone: Vec<_> =
        left().filter_map(|voter| Some((voter, silent.get(voter)?.as_secs()))).collect();
    let count = left().count();
    // Without any voter it is the library that refuses.
    if forced || count == 0 || !members.is_voter(id) || 2 * gone.len() < count {
        return Ok(());
    }
    let left: Vec<_> = left().map(ServerId::as_str).collect();
    let gone: Vec<_> =
        gone.iter().map(|(voter, seconds)| format!("{voter} (silent for {seconds} s)")).collect();
    Err(format!(
        "without {id} the voters would be {}, and without a majority, because the leader does not \
         hear from {}: nothing could be written any more. Start or remove the dead first, or insist \
         with --force (?force=true)",
        left.join(", "),
        gone.join(", ")
    ))
}

/// Whether a member may be taken back as one that has lost its data.
///
/// # Errors
/// When it has not, as far as the leader can tell, unless it is `forced`.
pub(super) fn return_of(
    id: &ServerId,
    silent: &Silent,
    has_wrong_disk: bool,
    forced: bool,
) -> Result<(), String> {
    if forced || has_wrong_disk {
        return Ok(());
    }
    if let Some(silence) = silent.get(id) {
        return Err(format!(
            "{id} has not answered the leader for {} s, so nobody knows whether it has lost its data. \
             Start it, on an empty directory if it has, and try again. To take its vote away before, \
             --force (?force=true)",
            silence.as_secs()
        ));
    }
    Err(format!(
        "{id} answers, from the disk that the cluster knows: there is nothing to take back. To insist \
         anyway, --force (?force=true)"
    ))
}

#[cfg(test)]
mod tests {
    use raft::Server;

    use super::*;

    fn members() -> Configuration {
        Configuration::new([
            Server::voter("a", "h:1"),
            Server::voter("b", "h:2"),
            Server::voter("c", "h:3"),
            Server::nonvoter("n", "h:4"),
        ])
    }

    #[test]
    fn an_address_changes_only_if_that_is_said() {
        let (a, leads) = (ServerId::from("a"), "h:1");
        let add = |id: &str, address: &str, voter: bool, moves: bool| {
            let wanted = Addressed { id: &id.into(), address };
            addition(&members(), &wanted, voter, moves, &Addressed { id: &a, address: leads })
        };
        let voter = |id: &str, address: &str| {
            Ok(Some(ConfigurationChange::AddVoter { id: id.into(), address: address.into() }))
        };
        let nonvoter = |id: &str, address: &str| {
            Ok(Some(ConfigurationChange::AddNonvoter { id: id.into(), address: address.into() }))
        };
        assert_eq!(add("d", "h:9", true, false), voter("d", "h:9"));
        assert_eq!(add("d", "h:9", false, true), nonvoter("d", "h:9"));
        assert_eq!(add("n", "h:4", true, false), voter("n", "h:4"));
        assert_eq!(add("b", "h:2", true, false), Ok(None), "a voter already");
        assert_eq!(add("n", "h:4", false, true), Ok(None), "a nonvoter already");
        let refusal = add("b", "h:2", false, false).unwrap_err();
        assert!(refusal.contains("kv ctl demote b"), "{refusal}");

        for id in ["b", "n"] {
            let refusal = add(id, "h:9", id == "b", false).unwrap_err();
            assert!(refusal.starts_with(&format!("{id} is a member already, at h:")), "{refusal}");
            assert!(refusal.contains("--move"), "{refusal}");
        }
        assert_eq!(add("b", "h:9", true, true), voter("b", "h:9"));
        assert_eq!(add("n", "h:9", false, true), nonvoter("n", "h:9"));
        let refusal = add("a", "h:9", true, true).unwrap_err();
        assert!(refusal.starts_with("a leads and runs at h:1"), "{refusal}");
    }

    #[test]
    fn a_leader_whose_address_was_wrong_may_be_given_its_own() {
        let id = ServerId::from("a");
        let here = Addressed { id: &id, address: "h:9" };
        let change = addition(&members(), &here, true, true, &here).unwrap();
        let address = "h:9".into();
        assert_eq!(change, Some(ConfigurationChange::AddVoter { id: id.clone(), address }));
    }

    #[test]
    fn only_who_has_lost_its_data_is_taken_back() {
        let id = ServerId::from("c");
        let silent = Silent::from([(id.clone(), Duration::from_secs(12))]);
        let well = Silent::new();
        let refusal = return_of(&id, &silent, false, false).unwrap_err();
        assert!(
            refusal.starts_with("c has not answered the leader for 12 s, so nobody"),
            "{refusal}"
        );
        assert_eq!(return_of(&id, &silent, false, true), Ok(()), "insisted");
        assert_eq!(
            return_of(&id, &silent, true, false),
            Ok(()),
            "it has been seen on another disk"
        );
        assert_eq!(return_of(&id, &well, true, false), Ok(()));
        assert_eq!(return_of(&id, &well, false, true), Ok(()), "insisted");
        let refusal = return_of(&id, &well, false, false).unwrap_err();
        assert!(refusal.starts_with("c answers, from the disk"), "{refusal}");
    }

    #[test]
    fn the_voters_that_remain_must_have_a_majority_that_is_there() {
        let remove = |id: &str, silent: &[&str], forced| {
            let silent = silent.iter().map(|id| ((*id).into(), Duration::from_secs(12))).collect();
            departure(&members(), &id.into(), &silent, forced)
        };
        assert_eq!(remove("b", &[], false), Ok(()));
        assert_eq!(remove("c", &["c"], false), Ok(()), "the dead one itself");
        assert_eq!(remove("n", &["c"], false), Ok(()), "no vote, no loss");
        assert_eq!(remove("nobody", &["c"], false), Ok(()), "the library refuses");
        let refusal = remove("b", &["c"], false).unwrap_err();
        let expected = "without b the voters would be a, c, and without a majority, because the leader \
                        does not hear from c (silent for 12 s): ";
        assert!(refusal.starts_with(expected) && refusal.contains("--force"), "{refusal}");
        assert!(remove("a", &["c"], false).is_err(), "the leader itself");
        assert_eq!(remove("b", &["c"], true), Ok(()), "insisted");
    }
}
