//! What the kernel says about this machine and its processes. Everything is read from `/proc`;
//! where that does not exist, a figure is absent rather than guessed.

use std::{fs, path::Path};

use serde::Serialize;

/// Ticks per second of the times in `/proc/*/stat`: fixed in the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// The machine a report was made on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) kernel: Option<String>,
    pub(crate) load_average: Option<f64>,
}

impl Machine {
    pub(crate) fn this() -> Self {
        Self {
            cores: cores(),
            processor: field("/proc/cpuinfo", "model name"),
            memory_bytes: kilobytes("/proc/meminfo", "MemTotal"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .ok()
                .map(|text| text.trim().to_owned()),
            load_average: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok()),
        }
    }

    pub(crate) fn describe(&self) -> String {
        let unknown = || "unknown".to_owned();
        format!(
            "{} cores ({}), {} of memory, Linux {}, load average {} before the start",
            self.cores,
            self.processor.clone().unwrap_or_else(unknown),
            self.memory_bytes.map_or_else(unknown, |bytes| crate::report::bytes(bytes as f64)),
            self.kernel.clone().unwrap_or_else(unknown),
            self.load_average.map_or_else(unknown, |load| format!("{load:.2}")),
        )
    }
}

/// How many threads can run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Processor seconds (user and system) a process has used, all threads. `None`: this process.
pub(crate) fn cpu_seconds(pid: Option<u32>) -> Option<f64> {
    let [user, system, _, _] = process_ticks(pid)?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Processor seconds used by this process and by those of its children that have ended.
fn cpu_seconds_with_children() -> Option<f64> {
    Some(process_ticks(None)?.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// User and system ticks of a process, then the same of its children that were waited for.
fn process_ticks(pid: Option<u32>) -> Option<[f64; 4]> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself contain spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let mut next = || ticks.next()?.ok();
    Some([next()?, next()?, next()?, next()?])
}

/// Memory of this process that is in RAM, in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS")
}

/// The kind of file system `path` is on, such as `ext4` or `tmpfs`.
pub(crate) fn filesystem(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            path.starts_with(point).then_some((point.len(), kind.split(' ').next()?))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind.to_owned())
}

/// What somebody else used of the machine meanwhile: the honest caveat under every table.
#[derive(Debug)]
pub(crate) struct Neighbours {
    machine: Option<MachineTicks>,
    own: Option<f64>,
}

impl Neighbours {
    pub(crate) fn watch() -> Self {
        Self { machine: machine_ticks(), own: cpu_seconds_with_children() }
    }

    /// The share of all processor time since [`watch`](Self::watch) that other processes used, or
    /// that the host of a virtual machine took away.
    pub(crate) fn share(&self) -> Option<f64> {
        let (before, after) = (self.machine.as_ref()?, machine_ticks()?);
        let total = after.total - before.total;
        let busy = after.busy - before.busy;
        let own = (cpu_seconds_with_children()? - self.own?) * TICKS_PER_SECOND;
        (total > 0.0).then(|| ((busy - own) / total).max(0.0))
    }

    /// The sentence for the notes.
    pub(crate) fn describe(&self) -> String {
        self.share().map_or_else(
            || "What other processes used meanwhile is unknown.".to_owned(),
            |share| {
                let warning = if share > 0.05 { ": NOISY, measure again on a quiet machine" } else { "" };
                format!(
                    "Other processes (and the host) used {:.0} % of the machine meanwhile{warning}.",
                    share * 100.0
                )
            },
        )
    }
}

#[derive(Debug)]
struct MachineTicks {
    total: f64,
    busy: f64,
}

fn machine_ticks() -> Option<MachineTicks> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .take(8) // user nice system idle iowait irq softirq steal; guest time is part of user
        .map_while(|field| field.parse().ok())
        .collect();
    let total: f64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some(MachineTicks { total, busy: total - idle })
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let value = field(file, name)?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The text after `name:` in a file of such lines.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(cpu_seconds(None).unwrap() >= 0.0);
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(filesystem(Path::new("/proc/self")).unwrap() == "proc");
        let ticks = machine_ticks().unwrap();
        assert!(0.0 < ticks.busy && ticks.busy <= ticks.total);
    }
}
