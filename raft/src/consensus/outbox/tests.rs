use super::*;
use crate::{
    position::LogIndex,
    rpc::{HeartbeatReply, RequestVoteReply},
};

fn matched(term: u64, round: u64, index: u64) -> Message {
    Message::AppendEntriesReply(AppendEntriesReply {
        term: Term(term),
        round,
        outcome: AppendOutcome::Matched { match_index: LogIndex(index) },
    })
}

fn heard(term: u64, round: u64) -> Message {
    Message::HeartbeatReply(HeartbeatReply {
        term: Term(term),
        round,
        accepted_index: LogIndex(9),
        match_index: LogIndex(0),
        applied_index: LogIndex(0),
    })
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

fn outbox(waiting: &[(u64, &str, Message)]) -> Outbox {
    let mut outbox = Outbox::default();
    for (until, to, message) in waiting {
        outbox.hold(WriteId(*until), (*to).into(), message.clone());
    }
    outbox
}

/// What is released when `written` is durable.
fn release(outbox: &mut Outbox, written: u64) -> Vec<(String, Message)> {
    let mut actions = VecDeque::new();
    outbox.release(WriteId(written), &mut actions);
    outbox.assert_invariants(WriteId(written));
    let sent = |action| match action {
        Action::Send { to, message } => (to.to_string(), message),
        other => panic!("{other}"),
    };
    actions.into_iter().map(sent).collect()
}

fn to(to: &str, message: Message) -> (String, Message) {
    (to.to_owned(), message)
}

#[test]
fn nothing_leaves_before_its_write() {
    let mut outbox = outbox(&[(2, "n2", vote(1)), (3, "n3", vote(1))]);
    assert_eq!(release(&mut outbox, 1), []);
    assert_eq!(release(&mut outbox, 2), [to("n2", vote(1))]);
    assert_eq!(release(&mut outbox, 2), []);
    assert_eq!(release(&mut outbox, 9), [to("n3", vote(1))]);
}

#[test]
fn messages_leave_in_the_order_of_their_writes_and_then_of_their_coming() {
    let mut outbox = outbox(&[
        (3, "n2", heard(1, 1)),
        (1, "n2", heard(1, 2)),
        (3, "n3", heard(1, 3)),
        (2, "n2", heard(1, 4)),
        (1, "n3", heard(1, 5)),
    ]);
    let rounds: Vec<u64> = release(&mut outbox, 3)
        .into_iter()
        .map(|(_, message)| match message {
            Message::HeartbeatReply(reply) => reply.round,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(rounds, [2, 5, 4, 1, 3]);
}

#[test]
fn acknowledgements_are_folded_into_the_last() {
    let mut outbox = outbox(&[
        (1, "n2", matched(1, 1, 3)),
        (1, "n2", matched(1, 1, 5)),
        (2, "n2", matched(1, 2, 7)),
        (3, "n2", matched(1, 3, 9)),
    ]);
    assert_eq!(release(&mut outbox, 2), [to("n2", matched(1, 2, 7))]);
    assert_eq!(release(&mut outbox, 3), [to("n2", matched(1, 3, 9))]);
}

#[test]
fn only_what_says_less_is_folded() {
    let kept = [
        // To others, of other kinds, of other terms, or with more to say.
        (1, "n2", matched(1, 1, 3)),
        (1, "n3", matched(1, 1, 5)),
        (1, "n3", heard(1, 1)),
        (1, "n3", matched(1, 1, 6)),
        (1, "n3", matched(2, 1, 7)),
        (1, "n3", matched(2, 3, 6)),
        (1, "n3", matched(2, 2, 8)),
        (1, "n3", vote(2)),
        (1, "n3", vote(2)),
    ];
    let expected: Vec<_> = kept.iter().map(|(_, id, message)| to(id, message.clone())).collect();
    assert_eq!(release(&mut outbox(&kept), 1), expected);
}

#[test]
fn acknowledgement_is_not_folded_into_one_that_still_waits() {
    let mut outbox = outbox(&[(1, "n2", matched(1, 1, 3)), (2, "n2", matched(1, 1, 5))]);
    assert_eq!(release(&mut outbox, 1), [to("n2", matched(1, 1, 3))]);
}

#[test]
fn promises_of_old_terms_are_forgotten() {
    let mut outbox = outbox(&[
        (1, "n2", vote(1)),
        (1, "n2", matched(2, 1, 3)),
        (2, "n3", heard(1, 1)),
        (2, "n3", heard(3, 1)),
    ]);
    outbox.forget_before(Term(2));
    let left = release(&mut outbox, 9);
    assert_eq!(left, [to("n2", matched(2, 1, 3)), to("n3", heard(3, 1))]);
}

fn received(transfer: u64, outcome: InstallOutcome) -> Message {
    Message::InstallSnapshotReply(InstallSnapshotReply { term: Term(1), transfer, outcome })
}

/// The pieces of a snapshot are answered one by one: a stuck disk must not make that pile up. But that
/// it is installed is said whatever comes after.
#[test]
fn of_the_answers_to_one_transfer_the_newest_is_kept() {
    let bytes = |next_offset| InstallOutcome::Received { next_offset };
    let installed = InstallOutcome::Installed { match_index: LogIndex(5) };
    let mut outbox = outbox(&[
        (1, "n2", received(1, bytes(10))),
        (1, "n2", received(1, bytes(20))),
        (1, "n2", received(1, installed.clone())),
        (1, "n2", received(1, bytes(10))),
        (1, "n2", received(2, bytes(0))),
        (1, "n3", received(1, bytes(0))),
    ]);
    let expected = [
        to("n2", received(1, installed)),
        to("n2", received(1, bytes(10))),
        to("n2", received(2, bytes(0))),
        to("n3", received(1, bytes(0))),
    ];
    assert_eq!(release(&mut outbox, 1), expected);
}
