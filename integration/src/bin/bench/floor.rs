//! One client: what the machine takes for a sync and a round trip, beside what an apply takes. Nothing
//! that is written on two servers can take less.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};

use crate::{
    Options, bare,
    outcome::{Limit, Promise},
    report::{Spread, Table, factor, nanoseconds, quantile, show},
    server::Store,
};

/// How many times the floor our median may be.
const PROMISED: f64 = 1.6;

/// Times in nanoseconds, of before and after the load.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    syncs: Vec<f64>,
    round_trips: Vec<f64>,
}

/// Medians of the samples.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Floor {
    sync_ns: f64,
    round_trip_ns: f64,
}

/// One run with one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BesideFloor {
    pub(crate) floor: Floor,
    /// A sync while two others are under way on the same disk.
    pub(crate) shared_sync_ns: f64,
    pub(crate) p50_ns: f64,
}

impl BesideFloor {
    /// How often the sum of one sync alone and a round trip goes into the median.
    fn times_alone(self) -> f64 {
        self.p50_ns / (self.floor.sync_ns + self.floor.round_trip_ns)
    }

    /// The same with a sync of three at once.
    fn times_shared(self) -> f64 {
        self.p50_ns / (self.shared_sync_ns + self.floor.round_trip_ns)
    }
}

impl Samples {
    /// Takes some more.
    pub(crate) async fn take(&mut self, options: &Options) -> Result<(), String> {
        let (base, payload) = (options.data.clone(), options.payload);
        let seconds = options.seconds.min(0.5);
        let measure = move || {
            let syncs = bare::sync_times(&base, payload, seconds)?;
            Ok::<_, io::Error>((syncs, round_trips(payload, seconds)?))
        };
        let (syncs, round_trips) = spawn_blocking(measure)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        self.syncs.extend(syncs);
        self.round_trips.extend(round_trips);
        Ok(())
    }

    pub(crate) fn floor(mut self) -> Option<Floor> {
        self.syncs.sort_by(f64::total_cmp);
        self.round_trips.sort_by(f64::total_cmp);
        Some(Floor {
            sync_ns: quantile(&self.syncs, 0.5)?,
            round_trip_ns: quantile(&self.round_trips, 0.5)?,
        })
    }
}

/// How long so many bytes take to another thread and back, over TCP on the loopback.
fn round_trips(bytes: usize, seconds: f64) -> io::Result<Vec<f64>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        let mut message = vec![0; bytes];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let mut message = vec![0x5a; bytes];
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < seconds {
        let before = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        times.push(before.elapsed().as_nanos() as f64);
    }
    drop(near);
    let _ = echo.join();
    Ok(times)
}

/// The table, and what is promised for our default store. `runs` are those of each side, by its name.
pub(crate) fn table(
    options: &Options,
    runs: &[(&'static str, Vec<BesideFloor>)],
) -> (Table, Promise) {
    let header = [
        "store",
        "one round trip",
        "one sync alone",
        "one of three at once",
        "p50 of one client",
        "÷ round trip and sync alone",
        "÷ round trip and one of three",
    ];
    let mut table = Table::new("One client beside what the machine takes", 1, &header);
    let spread = |side, figure: fn(BesideFloor) -> f64| {
        let of_side = runs.iter().filter(|(name, _)| *name == side);
        Spread::of(of_side.flat_map(|(_, runs)| runs.iter().copied()).map(figure))
    };
    for &(side, _) in runs {
        table.row(vec![
            side.to_owned(),
            show(spread(side, |it| it.floor.round_trip_ns), nanoseconds),
            show(spread(side, |it| it.floor.sync_ns), nanoseconds),
            show(spread(side, |it| it.shared_sync_ns), nanoseconds),
            show(spread(side, |it| it.p50_ns), nanoseconds),
            show(spread(side, BesideFloor::times_alone), factor),
            show(spread(side, BesideFloor::times_shared), factor),
        ]);
    }
    let promise = Promise {
        section: "durable",
        what: format!(
            "with one client a median of at most {} a round trip and one of three syncs",
            factor(PROMISED)
        ),
        limit: Limit::AtMost(PROMISED),
        measured: spread(Store::File.name(), BesideFloor::times_shared).map(|it| it.median),
        unit: factor,
    };
    table.note(promise.note(options.quick));
    table.note(format!(
        "One sync alone: the median of {} bytes written over zeros in a file that does not grow, then \
         fdatasync, nothing else running. One of three at once: the same while two others are under \
         way, as here three servers sync for each apply to one disk. One round trip: the median of as many bytes to another \
         thread and back over TCP on the loopback. Both right before and right after each run with one \
         client, whose median apply it is compared with.",
        options.payload,
    ));
    (table, promise)
}
