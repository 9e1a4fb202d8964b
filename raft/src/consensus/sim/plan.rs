//! What one seed is made of: sizes, settings, speeds, faults. Every seed draws its own mix and leaves
//! a random part out, so that seeds differ in kind and not only in detail.

use std::time::Duration;

use super::dice::Dice;
use crate::consensus::Rules;

/// Everything is measured against it. Microseconds, like all times here.
pub(super) const ELECTION_TIMEOUT: u64 = 100_000;

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) voters: usize,
    pub(super) nonvoters: usize,
    /// Servers that are in no configuration at first.
    pub(super) spares: usize,
    /// Whether every voter is bootstrapped, or only the first.
    pub(super) is_bootstrapped_everywhere: bool,
    /// The settings of every server at first, and when the faults are over, but for the id.
    pub(super) rules: Rules,
    pub(super) has_clock_skew: bool,
    pub(super) network: Weather,
    pub(super) disk: DiskSpeed,
    /// How late a timer fires at most.
    pub(super) timer_delay: u64,
    /// The mean time between a commit and its application.
    pub(super) apply_delay: u64,
    pub(super) clients: Clients,
    /// The mean time between two changes of the settings of some server; zero for none.
    pub(super) reload_pause: u64,
    pub(super) snapshots: Snapshots,
    pub(super) restores: Restores,
    pub(super) disks: Disks,
    pub(super) faults: Faults,
    pub(super) triggers: Vec<Trigger>,
    /// How many voters never come back, a minority; only without membership changes.
    pub(super) dead: usize,
    /// When the faults end and progress is demanded.
    pub(super) horizon: u64,
    pub(super) machines: Machines,
    /// Whether it is about older copies of disks, see [`drills`](super::drills).
    pub(super) is_drill: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) loss_per_mille: u64,
    pub(super) duplicate_per_mille: u64,
    pub(super) min_delay: u64,
    pub(super) max_delay: u64,
    /// Some messages come very late.
    pub(super) late_per_mille: u64,
    pub(super) late_delay: u64,
    /// Whether messages on one way keep their order, as on a connection.
    pub(super) keeps_order: bool,
    /// Whether the sender is told that entries could not be delivered.
    pub(super) reports_unreachable: bool,
    /// Whether a large order is sometimes sent in several messages.
    pub(super) splits_orders: bool,
    /// How often somebody of another cluster, with the address of one of these servers among its own, sends
    /// something like what these send each other.
    pub(super) foreign_per_mille: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct DiskSpeed {
    pub(super) min_sync: u64,
    pub(super) max_sync: u64,
    pub(super) stall_per_mille: u64,
    /// How late the server learns that a sync is done.
    pub(super) report_delay: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// The mean time between two requests.
    pub(super) pause: u64,
    pub(super) max_batch: u64,
    pub(super) max_command: u64,
    pub(super) verify_per_mille: u64,
    pub(super) change_per_mille: u64,
    pub(super) transfer_per_mille: u64,
    /// Whether only the newest leader is asked, or every server that believes to lead.
    pub(super) knows_the_leader: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshots {
    /// The mean time between two snapshots of a server; zero for none.
    pub(super) pause: u64,
    /// How long a snapshot takes to write, and to be reported as written, on average.
    pub(super) delay: u64,
    /// How many finished ones are kept.
    pub(super) retained: usize,
    /// The size of a snapshot and of one piece, in bytes.
    pub(super) size: usize,
    pub(super) piece: usize,
    /// How many pieces are under way at once.
    pub(super) window: usize,
    /// How long a sender waits for an answer.
    pub(super) patience: u64,
    /// How often a snapshot cannot be sent or kept.
    pub(super) refusal_per_mille: u64,
    /// How often a receiver has no room for a piece.
    pub(super) drop_per_mille: u64,
    /// Whether state machines keep their state by themselves, now and then.
    pub(super) machines_keep_state: bool,
}

/// Users' restores. Seeds that have them lose no disks otherwise, and no voters: a server that has
/// followed a restore in vain is lost already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restores {
    /// How many of a thousand requests ask for one.
    pub(super) per_mille: u64,
    /// How long it takes on average to copy the data.
    pub(super) delay: u64,
    /// How often the data is not to be had, or cannot be removed when it is not wanted any more.
    pub(super) failure_per_mille: u64,
}

/// What becomes of whole disks.
///
/// Promised is only what an incarnation protects. A disk is lost only if the configuration that is
/// committed knows it, and so does what every member goes by: to one that does not, a disk that was
/// wiped looks like that of a new server. And only so many are lost that those who have theirs, and are
/// known by it, are a majority.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disks {
    pub(super) keep_incarnations: bool,
    /// How often a crash takes the disk with it, as far as the rule above allows.
    pub(super) loss_per_mille: u64,
    /// How often that one is exchanged for one with an earlier state, and not for an empty one.
    pub(super) rollback_per_mille: u64,
    /// How often a crash has the disk exchanged for an older copy of itself, which is known by the same
    /// incarnation, where somebody can find that out.
    pub(super) older_copy_per_mille: u64,
    /// How long an operator waits between two steps of taking servers back.
    pub(super) rejoin_pause: u64,
}

/// State machines that stand still.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machines {
    /// The mean time between two that hang; zero for none.
    pub(super) pause: u64,
    /// For how long on average.
    pub(super) duration: u64,
    /// Whether one hangs when the faults are over, until it is seen whether somebody else leads.
    pub(super) hangs_when_calm: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// The mean time between two faults; zero for none.
    pub(super) pause: u64,
    pub(super) crash: u64,
    pub(super) crash_all: u64,
    pub(super) partition: u64,
    pub(super) stall: u64,
    pub(super) freeze: u64,
    /// How long a fault lasts on average.
    pub(super) duration: u64,
}

/// A fault that strikes at a chosen moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trigger {
    pub(super) moment: Moment,
    pub(super) strike: Strike,
    pub(super) per_mille: u64,
    /// The least time between two strikes.
    pub(super) rest: u64,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let voters = dice.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5]);
        let change_per_mille = dice.pick(&[0, 0, 20, 100]);
        let may_die = change_per_mille == 0 && dice.coin();
        let mut plan = Self {
            voters,
            nonvoters: dice.pick(&[0, 0, 0, 1, 2]),
            spares: dice.pick(&[0, 0, 1, 1, 2]),
            is_bootstrapped_everywhere: dice.coin(),
            rules: rules(dice, ELECTION_TIMEOUT),
            has_clock_skew: dice.coin(),
            network: weather(dice),
            disk: DiskSpeed {
                min_sync: dice.pick(&[0, 50, 500]),
                max_sync: dice.pick(&[500, 1_000, 3_000, 20_000, 80_000]),
                stall_per_mille: dice.pick(&[0, 0, 0, 2, 10]),
                report_delay: dice.pick(&[0, 100, 2_000]),
            },
            timer_delay: dice.pick(&[0, 0, 500, 10_000]),
            apply_delay: dice.pick(&[10, 200, 200, 5_000, 50_000]),
            clients: Clients {
                pause: dice.pick(&[2_000, 5_000, 10_000, 30_000]),
                max_batch: dice.pick(&[1, 1, 3, 12]),
                max_command: dice.pick(&[0, 20, 200]),
                verify_per_mille: dice.pick(&[0, 50, 200]),
                change_per_mille,
                transfer_per_mille: dice.pick(&[0, 0, 10, 50]),
                knows_the_leader: dice.coin(),
            },
            snapshots: snapshots(dice),
            faults: faults(dice),
            triggers: triggers(dice),
            dead: if may_die { (voters - 1) / 2 } else { 0 },
            horizon: dice.within(10..=45) * ELECTION_TIMEOUT,
            disks: disks(dice),
            reload_pause: dice.pick(&[0, 0, 30_000, 300_000]),
            restores: restores(dice),
            machines: Machines {
                pause: dice.pick(&[0, 2, 5]) * ELECTION_TIMEOUT,
                duration: dice.pick(&[1, 5, 20]) * ELECTION_TIMEOUT,
                hangs_when_calm: dice.chance(300),
            },
            is_drill: false,
        };
        if 0 < plan.restores.per_mille {
            plan.disks.loss_per_mille = 0;
            plan.dead = 0;
        } else if plan.disks.keep_incarnations {
            plan.disks.older_copy_per_mille = dice.pick(&[0, 300, 1000, 1000]);
        }
        if 0 < plan.disks.loss_per_mille + plan.disks.older_copy_per_mille {
            // They would be too many.
            plan.dead = 0;
        }
        plan
    }

    pub(super) fn servers(&self) -> usize {
        self.voters + self.nonvoters + self.spares
    }
}

/// Settings that a server may be given while it runs.
pub(super) fn other_rules(dice: &mut Dice) -> Rules {
    let election_timeout =
        dice.pick(&[ELECTION_TIMEOUT / 2, ELECTION_TIMEOUT, ELECTION_TIMEOUT * 2]);
    rules(dice, election_timeout)
}

fn rules(dice: &mut Dice, election_timeout: u64) -> Rules {
    let micros = Duration::from_micros;
    let heartbeat = election_timeout / dice.within(3..=10);
    let max_append_bytes = dice.pick(&[40, 100, 1_000, 1 << 20]);
    Rules {
        id: "".into(),
        election_timeout: micros(election_timeout),
        heartbeat_interval: micros(heartbeat),
        leader_lease_timeout: micros(dice.within(2 * heartbeat..=election_timeout)),
        write_stall_timeout: micros(election_timeout * dice.within(1..=5)),
        pre_vote: dice.coin(),
        max_append_entries: dice.pick(&[1, 1, 2, 3, 8, 64]),
        max_append_bytes,
        max_inflight_appends: dice.pick(&[1, 2, 3, 8, 32]),
        max_inflight_bytes: max_append_bytes * dice.pick(&[1, 2, 64]),
        max_unapplied_entries: dice.pick(&[4, 16, 1_000, 65_536]),
        max_unapplied_bytes: dice.pick(&[1_000, 64 << 20]),
        max_pending_writes: dice.pick(&[2, 8, 16, 256]),
        trailing_logs: dice.pick(&[0, 0, 1, 5, 30, 200]),
        max_held_entries: dice.pick(&[0, 10, 100, 100_000]),
        apply_stall_timeout: micros(election_timeout * 3),
    }
}

fn snapshots(dice: &mut Dice) -> Snapshots {
    let size = dice.pick(&[8, 24, 24, 100]);
    Snapshots {
        pause: dice.pick(&[0, 20_000, 60_000, 200_000, 500_000]),
        delay: dice.pick(&[0, 500, 500, 10_000, 100_000]),
        retained: dice.pick(&[2, 2, 3]),
        size,
        piece: dice.pick(&[7, 8, size]),
        window: dice.pick(&[1, 2, 8]),
        patience: ELECTION_TIMEOUT / dice.within(2..=8),
        refusal_per_mille: dice.pick(&[0, 0, 0, 50]),
        drop_per_mille: dice.pick(&[0, 0, 20]),
        machines_keep_state: dice.chance(200),
    }
}

fn restores(dice: &mut Dice) -> Restores {
    Restores {
        per_mille: dice.pick(&[0, 0, 10, 60]),
        delay: dice.pick(&[0, 500, 10_000, 100_000]),
        failure_per_mille: dice.pick(&[0, 300]),
    }
}

fn disks(dice: &mut Dice) -> Disks {
    let keep_incarnations = dice.chance(700);
    let loss_per_mille = dice.pick(&[0, 100, 300, 700]);
    Disks {
        keep_incarnations,
        loss_per_mille: if keep_incarnations { loss_per_mille } else { 0 },
        rollback_per_mille: dice.pick(&[0, 1000]),
        older_copy_per_mille: 0,
        rejoin_pause: ELECTION_TIMEOUT / 2 * dice.pick(&[1, 2, 6]),
    }
}

impl Disks {
    /// The number of a new disk.
    pub(super) fn new_incarnation(&self, dice: &mut Dice) -> u64 {
        if self.keep_incarnations { dice.number() | 1 } else { 0 }
    }
}

fn weather(dice: &mut Dice) -> Weather {
    let late_per_mille = dice.pick(&[0, 0, 5, 30]);
    let late_delay = dice.pick(&[1, 3, 8]) * ELECTION_TIMEOUT;
    Weather {
        loss_per_mille: dice.pick(&[0, 0, 5, 30, 150]),
        duplicate_per_mille: dice.pick(&[0, 0, 10, 100]),
        min_delay: dice.pick(&[50, 200, 1_000]),
        max_delay: dice.pick(&[1_000, 1_500, 5_000, 30_000]),
        late_per_mille,
        late_delay: if late_per_mille == 0 { 0 } else { late_delay },
        keeps_order: dice.chance(300),
        reports_unreachable: dice.coin(),
        splits_orders: dice.coin(),
        foreign_per_mille: dice.pick(&[0, 0, 0, 20]),
    }
}

fn faults(dice: &mut Dice) -> Faults {
    Faults {
        pause: dice.pick(&[0, 1, 2, 4, 8]) * ELECTION_TIMEOUT,
        crash: dice.pick(&[0, 1, 4]),
        crash_all: dice.pick(&[0, 0, 1]),
        partition: dice.pick(&[0, 1, 4]),
        stall: dice.pick(&[0, 0, 1]),
        freeze: dice.pick(&[0, 0, 1]),
        duration: dice.pick(&[1, 2, 5]) * ELECTION_TIMEOUT,
    }
}

fn triggers(dice: &mut Dice) -> Vec<Trigger> {
    let count = dice.pick(&[0, 1, 1, 2, 3]);
    let draw = |_| Trigger {
        moment: dice.pick(&Moment::ALL),
        strike: dice.pick(&Strike::ALL),
        per_mille: dice.pick(&[20, 100, 300, 700]),
        rest: dice.pick(&[0, 1, 2, 5]) * ELECTION_TIMEOUT,
    };
    (0..count).map(draw).collect()
}

/// A moment at which a fault may strike the server it happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Won,
    Committed,
    Wrote,
    Truncated,
    Synced,
    Voted,
    Acknowledged,
    HandedOver,
    Reconfigured,
    Asked,
    /// A snapshot from the leader is durable, and the core does not know.
    Finished,
    /// A snapshot has taken the place of the log.
    Reset,
    /// The same is durable.
    Adopted,
    Compacted,
    /// A piece of a snapshot is sent.
    Shipped,
    /// The data of a user's restore is durable, and the core does not know.
    Copied,
    /// A user's restore has taken the place of the log.
    Replaced,
}

impl Moment {
    pub(super) const ALL: [Self; 24] = [
        Self::Won,
        Self::Won,
        Self::Won,
        Self::Committed,
        Self::Committed,
        Self::Wrote,
        Self::Truncated,
        Self::Truncated,
        Self::Synced,
        Self::Voted,
        Self::Acknowledged,
        Self::HandedOver,
        Self::Reconfigured,
        Self::Asked,
        Self::Finished,
        Self::Finished,
        Self::Reset,
        Self::Adopted,
        Self::Compacted,
        Self::Shipped,
        Self::Copied,
        Self::Copied,
        Self::Replaced,
        Self::Replaced,
    ];
}

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strike {
    /// The rest of what it has just decided is never carried out.
    Crash,
    /// The same a little later.
    CrashSoon,
    /// Cut off in both directions.
    Isolate,
    /// Cut off, but for one other server.
    IsolateWithOne,
    /// Nobody hears it.
    Mute,
    /// It hears nobody.
    Deafen,
    /// Its disk stops for a while.
    Stall,
    /// It stands still for a while.
    Freeze,
}

impl Strike {
    pub(super) const ALL: [Self; 10] = [
        Self::Crash,
        Self::Crash,
        Self::CrashSoon,
        Self::Isolate,
        Self::IsolateWithOne,
        Self::IsolateWithOne,
        Self::Mute,
        Self::Deafen,
        Self::Stall,
        Self::Freeze,
    ];
}
