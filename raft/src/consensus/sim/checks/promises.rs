//! No promise before persistence (law 8): what a message says is covered by the sender's disk at the
//! instant when it leaves.

use super::{
    super::disk::{Choice, Image},
    Check, Checks,
};
use crate::{
    configuration::ServerId,
    position::{LogId, LogIndex, Term},
    rpc::{AppendOutcome, InstallOutcome, Message},
};

/// `from` sends a message to `to`, with this on its disk.
pub(crate) fn sent(
    from: &ServerId,
    to: &ServerId,
    message: &Message,
    disk: &Image,
    checks: &Checks,
) -> Check {
    let is_question = matches!(message, Message::RequestVote(request) if request.is_pre_vote);
    let durable = &disk.hard_state;
    ensure!(
        is_question || message.term() <= durable.current_term,
        "law 8: {from} says {message}, but term {} is on its disk",
        durable.current_term
    );
    let promised_vote = match message {
        Message::RequestVote(request) if !request.is_pre_vote => Some(from),
        Message::RequestVoteReply(reply) if reply.is_granted && !reply.is_pre_vote => Some(to),
        _ => None,
    };
    ensure!(
        promised_vote.is_none()
            || (durable.voted_for.as_ref(), durable.current_term)
                == (promised_vote, message.term()),
        "law 8: {from} says {message} to {to}, but {durable:?} is on its disk"
    );
    match message {
        Message::AppendEntriesReply(reply) => match reply.outcome {
            AppendOutcome::Matched { match_index } => {
                matched(from, reply.term, match_index, disk, checks)
            }
            _ => Ok(()),
        },
        Message::HeartbeatReply(reply) => {
            matched(from, reply.term, reply.match_index, disk, checks)
        }
        Message::InstallSnapshotReply(reply) => match reply.outcome {
            InstallOutcome::Installed { match_index } => {
                matched(from, reply.term, match_index, disk, checks)
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// `from` says that up to `index` its disk holds what the leader of `term` has, or a snapshot that
/// a start would choose.
fn matched(from: &ServerId, term: Term, index: LogIndex, disk: &Image, checks: &Checks) -> Check {
    if index == LogIndex::ZERO {
        return Ok(());
    }
    let Choice { snapshot, keeps_log } = disk.choice();
    let covered = snapshot.map(|it| it.applied).filter(|last| index <= last.index);
    let durable = covered.or(disk.log.id(index).filter(|_| keeps_log));
    // A restore that has come to nothing, adopted or about to be by a start, stays unnoticed as long as
    // the leader sends entries that are no later than it. They are not of the leader's own term, so
    // that nothing is committed by their acknowledgement.
    if let Some(id) = durable.filter(|id| checks.committed.is_open_restore(*id))
        && let Some(entry_term) = checks.leaders.term_at(term, index)
        && entry_term <= id.term
        && id.term < term
    {
        return Ok(());
    }
    ensure!(
        durable.is_some_and(|id| checks.leaders.has(term, id)),
        "law 8: {from} acknowledges {index} in term {term}, but its disk has {} there and ends at {}",
        durable.unwrap_or(LogId::ZERO),
        disk.log.last()
    );
    Ok(())
}

/// Entries up to `up_to` are handed to the state machine of a server with this on its disk.
pub(crate) fn handed_out(up_to: LogId, disk: &Image) -> Check {
    ensure!(disk.log.has(up_to), "I1: {up_to} is handed out, but is not on the disk");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{Entry, EntryPayload},
        rpc::{AppendEntriesReply, HeartbeatReply, RequestVoteReply, RequestVoteRequest},
        stable::HardState,
    };

    /// The disk of "a" in term 3, with a vote for "b" and one entry of term 2.
    fn disk() -> Image {
        let mut disk = Image {
            hard_state: HardState { current_term: Term(3), voted_for: Some("b".into()) },
            ..Image::default()
        };
        let payload = EntryPayload::Noop;
        disk.log.push(Entry { term: Term(2), index: LogIndex(1), payload });
        disk
    }

    fn says(to: &str, message: &Message) -> Check {
        let mut checks = Checks::default();
        checks.leaders.elected(Term(3), vec![Term(2), Term(3)]);
        sent(&"a".into(), &to.into(), message, &disk(), &checks)
    }

    fn vote(term: u64) -> Message {
        Message::RequestVoteReply(RequestVoteReply {
            term: Term(term),
            requested_term: Term(term),
            is_pre_vote: false,
            is_granted: true,
            promised: None,
            life: 0,
        })
    }

    fn acknowledgement(index: u64) -> Message {
        let outcome = AppendOutcome::Matched { match_index: LogIndex(index) };
        Message::AppendEntriesReply(AppendEntriesReply { term: Term(3), round: 1, outcome })
    }

    #[test]
    fn fires_on_a_vote_that_is_not_on_disk() {
        says("b", &vote(3)).unwrap();
        says("c", &vote(3)).unwrap_err();
        says("b", &vote(4)).unwrap_err();
        let candidacy = Message::RequestVote(RequestVoteRequest {
            term: Term(3),
            last: LogId::new(2, 1),
            is_pre_vote: false,
            is_leadership_transfer: false,
            promised: None,
            configuration_index: LogIndex(1),
            life: 0,
        });
        says("b", &candidacy).unwrap_err();
    }

    #[test]
    fn fires_on_an_acknowledgement_beyond_the_disk() {
        says("b", &acknowledgement(1)).unwrap();
        says("b", &acknowledgement(2)).unwrap_err();
        let heartbeat = |match_index| {
            Message::HeartbeatReply(HeartbeatReply {
                term: Term(3),
                round: 1,
                accepted_index: LogIndex(2),
                match_index: LogIndex(match_index),
                applied_index: LogIndex::ZERO,
            })
        };
        says("b", &heartbeat(1)).unwrap();
        says("b", &heartbeat(2)).unwrap_err();
    }

    #[test]
    fn fires_on_entries_handed_out_before_they_are_on_disk() {
        handed_out(LogId::new(2, 1), &disk()).unwrap();
        handed_out(LogId::new(3, 1), &disk()).unwrap_err();
        handed_out(LogId::new(3, 2), &disk()).unwrap_err();
    }
}
