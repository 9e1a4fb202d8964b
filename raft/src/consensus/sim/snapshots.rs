//! What the shell would do about snapshots: taking them, sending them piece by piece, receiving them,
//! and handing them to the state machine. In the spirit of the real sender and receiver, but small.

use super::{
    bug::Bug,
    checks::Check,
    machine::{Job, Machine},
    plan::Moment,
    server::{Alive, Ordered, Receiving, Sending},
    world::{Event, World, id_of, server_of},
};
use crate::{
    consensus::{ReceiptStep, SnapshotOrder, SnapshotReceipt},
    position::{LogId, LogIndex},
    rpc::{InstallOutcome, InstallSnapshotRequest, Message},
};

impl World {
    /// When the server takes its next snapshot.
    pub(super) fn plan_snapshot(&mut self, server: usize) {
        let pause = self.plan.snapshots.pause;
        if 0 < pause {
            let life = self.servers[server].life;
            let at = self.now + 1 + self.dice.around(pause);
            self.schedule(at, Event::Snapshot { server, life });
        }
    }

    pub(super) fn some_delay(&mut self) -> u64 {
        self.now + self.dice.around(self.plan.snapshots.delay)
    }

    /// Takes a snapshot of the state machine as it is; it is written beside everything else, and may
    /// be late.
    pub(super) fn take_snapshot(&mut self, server: usize) -> Check {
        self.plan_snapshot(server);
        let at = self.some_delay();
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return Ok(()) };
        let is_news = alive.core.snapshot().index < alive.machine.applied.index;
        if !is_news || std::mem::replace(&mut alive.is_taking_a_snapshot, true) {
            return Ok(());
        }
        let mut snapshot = alive.machine.clone();
        if self.bug == Some(Bug::SnapshotsTheNewestConfiguration) {
            snapshot.configuration = alive.log.configuration();
        }
        self.schedule(at, Event::SnapshotKept { server, life, snapshot });
        Ok(())
    }

    pub(super) fn snapshot_kept(&mut self, server: usize, snapshot: Machine) -> Check {
        let last = snapshot.applied;
        self.say(server, format_args!("<- snapshot {last} is durable"));
        self.checks.state_machine.is_state(&snapshot)?;
        self.checks.committed.snapshot(last, &snapshot.configuration)?;
        self.stats.snapshots += 1;
        self.keep_snapshot(server, snapshot);
        let at = self.some_delay();
        let life = self.servers[server].life;
        self.schedule(at, Event::SnapshotTaken { server, life, last });
        Ok(())
    }

    pub(super) fn keep_snapshot(&mut self, server: usize, snapshot: Machine) {
        let it = &mut self.servers[server];
        let adopted = it.alive.iter().flat_map(|alive| &alive.adopted);
        let pinned: Vec<LogId> = adopted.map(|snapshot| snapshot.applied).collect();
        it.disk.image.keep_snapshot(snapshot, self.plan.snapshots.retained, &pinned);
    }

    pub(super) fn snapshot_taken(&mut self, server: usize, last: LogId) -> Check {
        self.say(server, format_args!("<- snapshot {last} is taken"));
        if let Some(alive) = &mut self.servers[server].alive {
            alive.is_taking_a_snapshot = false;
            self.stats.late_snapshots += u64::from(last.index <= alive.core.snapshot().index);
        }
        self.call(server, |core, now| core.handle_snapshot_taken(now, last))
    }

    /// The log forgets its oldest entries.
    pub(super) fn compact(&mut self, server: usize, through: LogIndex) -> Check {
        let it = &mut self.servers[server];
        let Some(alive) = &mut it.alive else { return Ok(()) };
        let last = alive.log.last().index;
        let snapshots = &it.disk.image.snapshots;
        ensure!(
            through <= alive.machine.applied.index
                && snapshots.iter().any(|snapshot| {
                    through <= snapshot.applied.index && self.checks.committed.has(snapshot.applied)
                }),
            "law 14: compaction to {through}, for which no snapshot stands"
        );
        ensure!(alive.log.base().index < through, "{through} is compacted twice");
        ensure!(
            it.rules.trailing_logs <= last.since(through),
            "compaction to {through} of a log that ends at {last} leaves too little"
        );
        for peer in alive.core.peers(it.clock.local(self.now)) {
            let ordered = alive.ordered.get_mut(&server_of(&peer.id));
            let Some(ordered) = ordered else { continue };
            ordered.heard(&peer, alive.core.snapshot().index);
            ensure!(
                ordered.owed.is_none_or(|owed| {
                    through <= owed || it.rules.max_held_entries < last.since(owed)
                }),
                "compaction to {through}, but {} needs what follows: {ordered:?}",
                peer.id
            );
        }
        let possible = last.0.saturating_sub(it.rules.trailing_logs);
        self.stats.held += u64::from(through.0 < possible.min(alive.core.snapshot().index.0));
        self.stats.compactions += 1;
        alive.log.compact(through);
        let more = u64::from(self.bug == Some(Bug::CompactsOneMore));
        let on_disk = LogIndex(through.0 + more).min(it.disk.image.log.last().index);
        it.disk.compact(on_disk);
        self.sync(server);
        self.at_moment(server, Moment::Compacted);
        Ok(())
    }

    /// A snapshot takes the place of the whole log, in memory. Returns the snapshot.
    pub(super) fn reset(&mut self, server: usize, index: LogIndex) -> Result<Machine, String> {
        let it = &mut self.servers[server];
        let snapshots = &it.disk.image.snapshots;
        let Some(alive) = &mut it.alive else { return Err("it is down".to_owned()) };
        let adopted = alive.core.snapshot();
        let snapshot = snapshots.iter().find(|snapshot| snapshot.applied == adopted);
        let Some(snapshot) = snapshot.filter(|_| adopted.index == index) else {
            return Err(format!("law 14: the log is reset, but no snapshot ends at {index}"));
        };
        let (last, term) = (snapshot.applied, alive.core.term());
        ensure!(
            alive.commit_index < index,
            "law 14: snapshot {last} is installed, but {} is committed",
            alive.commit_index
        );
        ensure!(!alive.log.has(last), "law 14: a log is dropped that has {last}");
        for entry in alive.log.entries().iter().filter(|entry| index < entry.index) {
            self.checks.committed.truncated(entry.id(), term)?;
        }
        self.checks.committed.snapshot(last, &snapshot.configuration)?;
        ensure!(
            alive.leading.is_some() || self.checks.leaders.has(term, last),
            "law 14: {last} is adopted, but the leader of term {term} lacks it"
        );
        self.stats.installs += 1;
        self.stats.conflicts += u64::from(index <= alive.log.last().index);
        alive.generation += 1;
        alive.log.reset(last, snapshot.configuration.clone());
        // What was owed to followers of a leader is not there any more.
        alive.ordered.clear();
        alive.adopted.push(snapshot.clone());
        Ok(snapshot.clone())
    }

    /// The state machine is told to take on the state of a snapshot, after what it was told before.
    pub(super) fn restore(&mut self, server: usize, last: LogId) -> Check {
        let it = &mut self.servers[server];
        let Some(alive) = &mut it.alive else { return Ok(()) };
        ensure!(
            !it.disk.has_pending_reset(),
            "law 14: {last} is handed to the state machine before the log is reset on disk"
        );
        let snapshot = alive.adopted.iter().find(|snapshot| snapshot.applied == last);
        let Some(snapshot) = snapshot.cloned() else {
            return Err(format!("law 14: {last} is restored, but was not adopted"));
        };
        ensure!(alive.apply_up_to < last.index, "law 6: the state machine goes back to {last}");
        alive.apply_up_to = last.index;
        if self.bug != Some(Bug::IgnoresRestore) {
            alive.jobs.push_back(Job::Restore(snapshot));
        }
        self.begin_to_apply(server);
        Ok(())
    }

    /// Begins to send the newest snapshot to a peer.
    pub(super) fn send_snapshot(&mut self, server: usize, order: &SnapshotOrder) -> Check {
        self.stats.shipments += 1;
        let at = self.some_delay() + 1;
        let is_refused = !self.is_calm && self.dice.chance(self.plan.snapshots.refusal_per_mille);
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return Ok(()) };
        let (peer, transfer) = (server_of(&order.to), order.transfer);
        alive.sending.remove(&peer);
        let local = it.clock.local(self.now);
        let before = alive.ordered.insert(
            peer,
            Ordered {
                transfer,
                owed: Some(order.snapshot.index),
                is_open: true,
                not_before: local,
            },
        );
        ensure!(
            before.is_none_or(|before| before.not_before <= local),
            "{order:?} comes too soon after one that has failed: {before:?}"
        );
        if is_refused {
            self.stats.refused += 1;
            self.schedule(at, Event::NothingToShip { server, life, peer, transfer });
            return Ok(());
        }
        let newest = it.disk.image.newest_snapshot();
        ensure!(
            newest.is_some_and(|it| order.snapshot.index <= it.applied.index),
            "law 14: {order:?}, but the newest snapshot is {newest:?}"
        );
        // What the core does not know may come to nothing.
        let known = [alive.core.snapshot(), order.snapshot];
        let mut kept = it.disk.image.snapshots.iter();
        let is_careless = self.bug == Some(Bug::SendsWhatIsNotAdopted);
        let Some(snapshot) = kept.rfind(|it| is_careless || known.contains(&it.applied)) else {
            self.stats.refused += 1;
            self.schedule(at, Event::NothingToShip { server, life, peer, transfer });
            return Ok(());
        };
        let leaders = &self.checks.leaders;
        ensure!(
            leaders.has(order.term, snapshot.applied),
            "law 4: {} is sent, but the leader of {} lacks it",
            snapshot.applied,
            order.term
        );
        let sending = Sending {
            term: order.term,
            transfer,
            snapshot: snapshot.clone(),
            data: snapshot.bytes(self.plan.snapshots.size),
            acknowledged: 0,
            sent: 0,
            seen: 0,
        };
        alive.sending.insert(peer, sending);
        let at = self.now + self.plan.snapshots.patience;
        self.schedule(at, Event::Ship { server, life, peer, transfer });
        self.ship(server, peer)
    }

    pub(super) fn nothing_to_ship(&mut self, server: usize, peer: usize, transfer: u64) -> Check {
        self.shipment_failed(server, peer, transfer);
        let peer = id_of(peer);
        self.call(server, |core, now| core.handle_snapshot_failed(now, &peer, transfer))
    }

    fn shipment_failed(&mut self, server: usize, peer: usize, transfer: u64) {
        let it = &mut self.servers[server];
        let not_before = it.clock.local(self.now) + it.rules.election_timeout;
        let Some(alive) = &mut it.alive else { return };
        if let Some(ordered) = alive.ordered.get_mut(&peer)
            && (ordered.transfer, ordered.is_open) == (transfer, true)
        {
            *ordered = Ordered { transfer, owed: None, is_open: false, not_before };
        }
    }

    /// Sends as many pieces as the window has room for.
    fn ship(&mut self, server: usize, peer: usize) -> Check {
        let plan = self.plan.snapshots;
        while let Some(alive) = &mut self.servers[server].alive {
            let Some(it) = alive.sending.get_mut(&peer) else { break };
            let room = it.acknowledged + plan.window * plan.piece;
            if it.data.len() <= it.sent || room <= it.sent {
                break;
            }
            let end = it.data.len().min(it.sent + plan.piece);
            let piece = InstallSnapshotRequest {
                term: it.term,
                transfer: it.transfer,
                last: it.snapshot.applied,
                configuration: it.snapshot.configuration.clone(),
                size_bytes: it.data.len() as u64,
                offset: it.sent as u64,
                checksum: 0,
                data: it.data[it.sent..end].to_vec().into(),
            };
            it.sent = end;
            self.stats.pieces += 1;
            self.send(server, peer, Message::InstallSnapshot(piece))?;
        }
        Ok(())
    }

    /// A sender has waited for a while: if nothing has arrived since, it sends on from there.
    pub(super) fn ship_again(&mut self, server: usize, peer: usize, transfer: u64) -> Check {
        let plan = self.plan.snapshots;
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return Ok(()) };
        let Some(it) = alive.sending.get_mut(&peer) else { return Ok(()) };
        if it.transfer != transfer {
            return Ok(());
        }
        if it.acknowledged == it.seen {
            // Of a snapshot that is all there the last piece is sent again: the answer was lost.
            let start = it.acknowledged.min(it.data.len() - 1);
            it.sent = start - start % plan.piece;
            self.stats.resumed += u64::from(0 < start);
        }
        it.seen = it.acknowledged;
        let at = self.now + plan.patience;
        self.schedule(at, Event::Ship { server, life, peer, transfer });
        self.ship(server, peer)
    }

    pub(super) fn snapshot_answered(
        &mut self,
        server: usize,
        peer: usize,
        transfer: u64,
        outcome: &InstallOutcome,
    ) -> Check {
        let ordered = self.servers[server].alive.as_ref().and_then(|it| it.ordered.get(&peer));
        ensure!(
            ordered.is_none_or(|ordered| ordered.transfer == transfer),
            "law 12: an answer to transfer {transfer} counts for {ordered:?}"
        );
        if *outcome == InstallOutcome::Refused {
            self.shipment_failed(server, peer, transfer);
        }
        let Some(alive) = &mut self.servers[server].alive else { return Ok(()) };
        let Some(it) = alive.sending.get_mut(&peer).filter(|it| it.transfer == transfer) else {
            return Ok(());
        };
        let InstallOutcome::Received { next_offset } = outcome else {
            alive.sending.remove(&peer);
            return Ok(());
        };
        let next = *next_offset as usize;
        ensure!(next <= it.data.len(), "{peer} has {next} bytes of {}", it.data.len());
        if next < it.acknowledged {
            // It has lost what it had.
            it.sent = next;
        }
        it.acknowledged = next;
        it.sent = it.sent.max(next);
        self.ship(server, peer)
    }

    /// A piece waits for the receiver.
    pub(super) fn receive_snapshot(
        &mut self,
        server: usize,
        from: usize,
        piece: InstallSnapshotRequest,
    ) {
        let at = self.some_delay();
        let is_dropped = !self.is_calm && self.dice.chance(self.plan.snapshots.drop_per_mille);
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return };
        if !is_dropped {
            alive.receiver_busy_until = alive.receiver_busy_until.max(at);
            let at = alive.receiver_busy_until;
            self.schedule(at, Event::Keep { server, life, from, piece });
        }
    }

    /// The receiver takes a piece: it keeps what follows what it has, of the newest transfer.
    pub(super) fn keep(
        &mut self,
        server: usize,
        from: usize,
        piece: InstallSnapshotRequest,
    ) -> Check {
        let is_refused = !self.is_calm && self.dice.chance(self.plan.snapshots.refusal_per_mille);
        let bug = self.bug;
        let at = self.some_delay();
        let it = &mut self.servers[server];
        let (life, Some(alive)) = (it.life, &mut it.alive) else { return Ok(()) };
        let is_late = alive
            .receiving
            .as_ref()
            .is_some_and(|it| it.is_whole || (piece.term, piece.transfer) < (it.term, it.transfer));
        if is_late {
            return Ok(());
        }
        let receipt = |step| SnapshotReceipt {
            from: id_of(from),
            term: piece.term,
            transfer: piece.transfer,
            step,
        };
        let is_same = |it: &Receiving| {
            (it.from, it.term, it.transfer) == (from, piece.term, piece.transfer)
                || bug == Some(Bug::MixesTransfers)
        };
        if !alive.receiving.as_ref().is_some_and(is_same) {
            alive.receiving = Some(Receiving {
                from,
                term: piece.term,
                transfer: piece.transfer,
                last: piece.last,
                configuration: piece.configuration.clone(),
                size: piece.size_bytes as usize,
                data: Vec::new(),
                is_whole: false,
            });
        }
        let Some(it) = &mut alive.receiving else { return Ok(()) };
        if is_refused {
            alive.receiving = None;
            self.stats.refused += 1;
            self.schedule(
                at,
                Event::Receipt { server, life, receipt: receipt(ReceiptStep::Refused) },
            );
            return Ok(());
        }
        if piece.offset as usize == it.data.len() {
            it.data.extend_from_slice(&piece.data);
        }
        if it.data.len() == it.size {
            it.is_whole = true;
            self.schedule(at, Event::Finish { server, life });
        } else {
            let next_offset = it.data.len() as u64;
            let receipt = receipt(ReceiptStep::Received { next_offset });
            self.schedule(at, Event::Receipt { server, life, receipt });
        }
        Ok(())
    }

    /// A snapshot that has arrived becomes durable.
    pub(super) fn finish(&mut self, server: usize) -> Check {
        let at = self.some_delay();
        let it = &self.servers[server];
        let (life, Some(alive)) = (it.life, &it.alive) else { return Ok(()) };
        let Some(it) = &alive.receiving else { return Ok(()) };
        let hash = it.data.first_chunk().copied().map_or(0, u64::from_be_bytes);
        let configuration = it.configuration.clone();
        let snapshot = Machine { applied: it.last, hash, configuration };
        ensure!(
            it.data == snapshot.bytes(it.size),
            "{} arrived in pieces that do not fit",
            it.last
        );
        self.checks.state_machine.is_state(&snapshot)?;
        self.checks.committed.snapshot(it.last, &snapshot.configuration)?;
        self.stats.arrived += 1;
        self.stats.matching += u64::from(alive.log.has(it.last));
        let (last, configuration) = (it.last, it.configuration.clone());
        let receipt = SnapshotReceipt {
            from: id_of(it.from),
            term: it.term,
            transfer: it.transfer,
            step: ReceiptStep::Complete { last, configuration },
        };
        self.schedule(at, Event::Receipt { server, life, receipt });
        self.say(server, format_args!("<- snapshot {last} is durable"));
        self.remove_unwanted(server, last);
        if self.bug != Some(Bug::LosesFinishedSnapshot) {
            self.keep_snapshot(server, snapshot);
        }
        self.at_moment(server, Moment::Finished);
        Ok(())
    }

    /// Another snapshot comes than those that do not count: these are removed.
    pub(super) fn remove_unwanted(&mut self, server: usize, other: LogId) {
        let it = &mut self.servers[server];
        let Some(alive) = &mut it.alive else { return };
        for last in std::mem::take(&mut alive.unwanted) {
            // Of what is in the log there may be one of its own, and here these are the same.
            if last != other && !alive.log.has(last) {
                it.disk.image.snapshots.retain(|it| it.applied != last);
            }
        }
    }

    pub(super) fn receipt(&mut self, server: usize, receipt: SnapshotReceipt) -> Check {
        self.say(server, format_args!("<- {receipt:?}"));
        if let Some(alive) = &mut self.servers[server].alive
            && matches!(receipt.step, ReceiptStep::Complete { .. })
        {
            alive.receiving = None;
        }
        let whole = match receipt.step {
            ReceiptStep::Complete { last, .. } => Some(last),
            ReceiptStep::Received { .. } | ReceiptStep::Refused => None,
        };
        let counts = self.enter(server, |core, now| core.handle_snapshot_receipt(now, receipt));
        let it = &mut self.servers[server];
        if counts == Some(false)
            && let Some(last) = whole
            // Of what is in the log there may be one of its own, and here these are the same.
            && let Some(alive) = it.alive.as_mut().filter(|alive| !alive.log.has(last))
        {
            self.stats.unwanted += 1;
            alive.unwanted.push(last);
        }
        self.settle(server)
    }

    /// Counts what a crash has cut short.
    pub(super) fn note_crash(&mut self, server: usize, alive: &Alive) {
        let image = &self.servers[server].disk.image;
        let base = image.log.base().index;
        let newest = image.newest_snapshot().map_or(LogIndex::ZERO, |it| it.applied.index);
        let is_adopted = alive.adopted.iter().all(|snapshot| snapshot.applied.index <= base);
        let is_known = newest <= alive.core.commit_index();
        self.stats.cut_before_reset += u64::from(!is_adopted || !is_known);
        self.stats.cut_before_restore += u64::from(is_adopted && !alive.adopted.is_empty());
        self.note_cut_restore(server, alive.log.base());
        self.stats.lost_compactions += u64::from(is_adopted && base < alive.log.base().index);
    }

    /// What a server is about to start with.
    pub(super) fn look_at_disk(&mut self, server: usize) -> Check {
        let image = &self.servers[server].disk.image;
        let choice = image.choice();
        let snapshot = choice.snapshot.map_or(LogId::ZERO, |snapshot| snapshot.applied);
        let base = image.log.base();
        ensure!(
            base.index <= snapshot.index,
            "law 7: the log begins after {base}, but the snapshot ends with {snapshot}"
        );
        self.stats.ended_at_start += u64::from(!choice.keeps_log);
        let is_restored = !choice.keeps_log && self.checks.committed.is_open_restore(snapshot);
        self.stats.restored_at_start += u64::from(is_restored);
        let newest = image.newest_snapshot().map_or(LogId::ZERO, |it| it.applied);
        self.stats.voided_at_start += u64::from(snapshot < newest);
        let has_more = choice.keeps_log && snapshot.index < image.log.last().index;
        self.stats.replays += u64::from(has_more && snapshot.index < image.commit_index);
        Ok(())
    }
}
