//! `run`: the task that owns consensus.
//!
//! One turn: wait until anything is ready, take **everything** that is ready (a bounded batch from
//! each source, in a fixed order: signals of the other tasks, messages, the time, requests), tell the
//! core, show the new state, carry out what the core decided. It waits in one place only, never blocks,
//! and touches neither disk nor state machine, so a heartbeat never waits for either.
//!
//! When the core is saturated no commands are taken up, and when its window of writes is full no
//! messages with entries either: they stay in their bounded queues, and whoever fills these waits.
//! Heartbeats and votes have a lane of their own and go on, and so do all requests that bring no
//! entries.
//!
//! **The time comes last.** A process that stood still finds its timers due and the reason why they
//! should not be in its queues: so whatever had arrived is told first, to its end, see
//! [`Run::take_time`]. No timer suffers from that. An election only comes later. A lease that is over is
//! not renewed by it, because contact counts from when the question was sent.
//!
//! This file has the loop. What is taken and what becomes of it: requests in `intake`, messages in
//! `inbound`, decisions in `dispatch`, a user's restore in `user_restore`, and what is told to the
//! outside in `report`.

mod dispatch;
mod inbound;
mod intake;
mod monitor;
mod refusals;
mod report;
mod restore_cluster;
mod turn;
mod user_restore;

use std::{future::poll_fn, sync::Arc, task::Poll};

pub(super) use self::turn::{Mail, Queues};
use self::{
    monitor::Monitor,
    restore_cluster::Restoring,
    turn::{Dispatch, Inbound, Intake, MESSAGES_MAX, REQUESTS_MAX, TurnState},
};
use super::{
    peers::Peers, pending::Waiters, shared::Shared, signals::SnapshotNews, supervise::Tasks,
};
use crate::{
    clock::Alarm,
    consensus::{Consensus, Time},
    error::Fatal,
    metrics::Metrics,
    position::LogIndex,
    transport::Received,
};

pub(super) struct Run<R> {
    core: Consensus,
    shared: Arc<Shared>,
    waiters: Waiters<R>,
    peers: Peers,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    intake: Intake<R>,
    inbound: Inbound,
    dispatch: Dispatch<R>,
    monitor: Monitor,
    restoring: Option<Restoring>,
    turn: TurnState,
    alarm: Alarm,
}

impl<R: Send + 'static> Run<R> {
    /// Of a node whose log has these bounds at the start.
    pub(super) fn new(
        core: Consensus,
        shared: &Arc<Shared>,
        (peers, tasks): (Peers, Tasks),
        metrics: Arc<Metrics>,
        queues: Queues<R>,
        bounds: (LogIndex, LogIndex),
    ) -> Self {
        let clock = shared.clock;
        Self {
            core,
            shared: Arc::clone(shared),
            waiters: Waiters::new(),
            peers,
            tasks,
            metrics,
            intake: Intake::new(),
            inbound: Inbound::default(),
            dispatch: Dispatch::new(queues),
            monitor: Monitor::new(bounds, clock.now()),
            restoring: None,
            turn: TurnState::default(),
            alarm: Alarm::new(clock),
        }
    }

    /// Runs until the node ends.
    pub(super) async fn run(&mut self, mail: &mut Mail<R>) {
        self.peers.check_own_address(&self.core.latest_configuration().configuration);
        self.show_and_act(self.shared.clock.now());
        while !self.shared.end.has_begun() {
            self.wait(mail).await;
            let now = self.shared.clock.now();
            self.shared.run_busy.begin(|| now);
            self.look(now, mail);
            // Before the time: how far this server has come decides whether it campaigns.
            self.take_signals(now);
            self.take_messages(now);
            self.take_time(now, &mail.inbox);
            if self.core.is_saturated() {
                mail.requests.time_out(now);
            }
            self.take_requests(now);
            self.show_and_act(now);
            self.end_if_removed();
            if self.inbound.is_closed {
                self.shared.stop(Fatal::TransportClosed);
            }
            self.shared.run_busy.end(|| self.shared.clock.now());
        }
        self.monitor.sampler.count_lost(&self.core, &self.shared, &self.metrics);
    }

    /// Answers whoever still waits, with the end of the node, and closes the other tasks' queues.
    pub(super) fn end(self) -> Tasks {
        self.tasks
    }

    /// Waits until something is ready, and takes a batch from every source that is. The sources are
    /// polled in a fixed order; taking from one is never undone, so nothing is lost.
    ///
    /// A task that is woken runs next, before others that are ready, so the first of many callers
    /// would get a turn to itself. If there were several lately, this task goes to the end of the
    /// line once, and then takes what has come until then: a turn costs the same for one request
    /// as for many.
    async fn wait(&mut self, mail: &mut Mail<R>) {
        let takes_messages = !self.core.is_write_window_overrun() && !self.inbound.is_closed;
        let takes_entries = !self.core.is_write_window_full();
        let has_room = !self.core.is_saturated();
        if self.awaits_applied(!has_room || self.turn.ends_at.is_some()) {
            return;
        }
        let look = self.monitor.sampler.due_at();
        self.alarm.arm(Some(self.core.next_timeout().map_or(look, |timeout| timeout.min(look))));
        let Self { intake, inbound, alarm, shared, .. } = self;
        let mut has_stepped_back = false;
        poll_fn(|cx| {
            let mut is_ready = shared.signals.poll(cx).is_ready();
            if takes_messages
                && let Poll::Ready(is_open) =
                    mail.inbox.poll_take(cx, &mut inbound.messages, MESSAGES_MAX, takes_entries)
            {
                inbound.is_closed = !is_open;
                is_ready = true;
            }
            let (requests, taken) = (&mut mail.requests, &mut intake.requests);
            let polled = requests.poll_take(cx, taken, REQUESTS_MAX, has_room, shared.clock);
            is_ready |= polled.is_ready();
            alarm.arm(requests.next_deadline());
            is_ready |= alarm.poll(cx).is_ready();
            if is_ready && !has_stepped_back && intake.expects_more() {
                has_stepped_back = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if is_ready || has_stepped_back { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Makes sure that `run_fsm` wakes this task if, and only if, it waits for room. Returns whether
    /// there is news already.
    fn awaits_applied(&mut self, awaits: bool) -> bool {
        if self.turn.awaits_applied != awaits {
            self.turn.awaits_applied = awaits;
            self.shared.signals.await_applied(awaits);
        }
        awaits && self.shared.last_applied() != self.core.last_applied()
    }

    fn take_signals(&mut self, now: Time) {
        // Before the others: a snapshot is only of what was applied before it was reported.
        let news = self.shared.signals.take_snapshots();
        let written = self.shared.signals.last_written();
        if self.turn.written < written {
            self.turn.written = written;
            self.core.handle_written(now, written);
            self.waiters.written(written);
        }
        let applied = self.shared.last_applied();
        if self.core.last_applied() < applied {
            self.core.handle_applied(now, applied);
        }
        for peer in self.shared.signals.take_unreachable() {
            self.core.handle_unreachable(now, &peer);
        }
        self.take_snapshots(now, news);
    }

    fn take_snapshots(&mut self, now: Time, news: SnapshotNews) {
        let SnapshotNews { taken, receipts, complete, failed, copied } = news;
        if let Some((last, taker)) = taken {
            self.core.handle_snapshot_taken(now, last);
            self.dispatch.snapshot_taker = Some(taker);
        }
        for receipt in receipts {
            self.core.handle_snapshot_receipt(now, receipt);
        }
        if let Some((receipt, receiver)) = complete {
            let _ = receiver.send(self.core.handle_snapshot_receipt(now, receipt));
        }
        for failed in failed {
            self.peers.snapshot_failed(&failed);
            self.core.handle_snapshot_failed(now, &failed.peer, failed.transfer);
        }
        if let Some((last, result)) = copied {
            self.restore_copied(now, last, result);
        }
    }

    /// Tells the core the time if one of its timers is due; but first everything that had arrived when
    /// that was noticed, which may take some turns. What comes meanwhile is not waited for, so that no
    /// flood of messages keeps the timers from firing; nor is what the core has no room for.
    fn take_time(&mut self, now: Time, inbox: &Received) {
        if self.core.next_timeout().is_none_or(|timeout| now < timeout) {
            self.turn.turns_until_time = None;
            return;
        }
        let turns = self.turn.turns_until_time.get_or_insert_with(|| {
            let (urgent, entries) = inbox.lengths();
            let entries = if self.core.is_write_window_full() { 0 } else { entries };
            let urgent = if self.core.is_write_window_overrun() { 0 } else { urgent };
            urgent.max(entries).div_ceil(MESSAGES_MAX)
        });
        if let Some(left) = turns.checked_sub(1) {
            *turns = left;
            return;
        }
        self.turn.turns_until_time = None;
        self.core.handle_timeout(now);
        self.monitor.note_timeouts(&self.shared.id, &self.core);
    }

    /// Ends the node once everybody has the answer that a removed server can give.
    fn end_if_removed(&self) {
        if self.turn.ends_at.is_some_and(|index| index <= self.shared.last_applied()) {
            self.shared.stop(Fatal::Removed);
        }
    }
}
