//! `kv demo`: three servers, a real data set, many writes, and a leader that is killed in the middle.
//!
//! Nothing here is taken on trust. The demo keeps a book of every write that was acknowledged and
//! compares it, key by key, with everything each server holds; anything that is lost, wrong or
//! invented ends the demo with exit code 1 and is named.

mod check;
mod cluster;
mod dataset;
mod load;
mod show;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use self::{
    cluster::{Cluster, Start},
    load::Book,
    show::{Show, grouped},
};
use crate::{cli::Demo, failure::Failure, operator::Ask, output::say, resp::client::Client};

const FIRST: [&str; 3] = ["a", "b", "c"];
const FOURTH: &str = "d";
const POLL: Duration = Duration::from_millis(20);

/// Runs the demo.
///
/// # Errors
/// When anything is not as it must be, or it was interrupted. No server is left running.
pub(crate) async fn run(options: Demo) -> Result<(), Failure> {
    let directory = tempfile::Builder::new().prefix("kv-demo-").tempdir();
    let directory = directory
        .map_err(|error| Failure::new(format!("cannot make a temporary directory: {error}")))?;
    let ids = [&FIRST[..], &[FOURTH]].concat();
    let mut cluster = Cluster::new(directory.path(), &options, &ids)?;
    let told_to_stop = told_to_stop()?;
    tokio::pin!(told_to_stop);

    let story = tell(&mut cluster, &options, &mut told_to_stop).await;
    cluster.stop().await;
    match story {
        Ok(()) => Ok(()),
        Err(End::Interrupted) => Err(Failure::new("interrupted; all servers are stopped")),
        Err(End::Failed(failure)) => {
            let kept = directory.keep();
            Err(Failure::new(format!("{failure} (logs and data are in {})", kept.display())))
        }
    }
}

/// How the demo ends early.
enum End {
    Interrupted,
    Failed(Failure),
}

fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let handler = |kind| {
        signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))
    };
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn tell(
    cluster: &mut Cluster,
    options: &Demo,
    told_to_stop: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), End> {
    let show = Show::new();
    let story = Story { show: &show, cluster, writes: options.writes };
    let told = tokio::select! {
        biased;
        () = &mut *told_to_stop => Err(End::Interrupted),
        told = story.tell() => told.map_err(End::Failed),
    };
    show.end();
    told?;
    if options.keep {
        keep(&show, cluster);
        told_to_stop.await;
        say!();
    }
    show.event(
        "done",
        format!("in {:.1} s, everything as it must be", show.elapsed().as_secs_f64()),
    );
    Ok(())
}

fn keep(show: &Show, cluster: &Cluster) {
    let port = |id: &str| cluster.process(id).resp.rsplit(':').next().unwrap_or("").to_owned();
    for id in cluster.running() {
        let http = &cluster.process(&id).http;
        show.event("try", format!("redis-cli -p {}   curl http://{http}/status", port(&id)));
    }
    if let Some(id) = cluster.running().first() {
        let (port, http) = (port(id), &cluster.process(id).http);
        show.event("try", format!("redis-cli -p {port} get tz:Europe/Berlin"));
        show.event("try", format!("kv ctl --http {http} status"));
    }
    show.event("kept", "the cluster runs until Ctrl-C");
}

/// The demo itself, one chapter a method.
struct Story<'a> {
    show: &'a Show,
    cluster: &'a mut Cluster,
    writes: u32,
}

impl Story<'_> {
    async fn tell(mut self) -> Result<(), Failure> {
        let writes = grouped(self.writes);
        say!("kv demo: three servers, {writes} writes, and a leader that dies in the middle");
        self.start().await?;
        let book = Book::new(self.writes);
        self.load_zones(&book).await?;
        let dead = self.load_and_kill(&book).await?;
        self.compare(&book).await?;
        self.bring_back(&book, &dead).await?;
        self.change_members(&book).await?;
        self.say_goodbye().await
    }

    async fn start(&mut self) -> Result<(), Failure> {
        for id in FIRST {
            self.cluster.start(id, Start::First(&FIRST))?;
        }
        for id in FIRST {
            self.cluster.ready(id).await?;
        }
        let ports = FIRST.map(|id| format!("{id} on {}", self.cluster.process(id).resp));
        self.show.event("started", ports.join(", "));
        let (leader, term) = self.cluster.leader(None).await?;
        self.show.event("leader", format!("{leader} leads in term {term}"));
        Ok(())
    }

    async fn load_zones(&mut self, book: &Arc<Book>) -> Result<(), Failure> {
        let zones = dataset::zones();
        let count = zones.len();
        load::write_all(book, zones, &self.cluster.process(FIRST[0]).resp).await?;
        self.show.event("time zones", format!("{count} rows of the tz database written through a"));
        Ok(())
    }

    /// Returns who was killed.
    async fn load_and_kill(&mut self, book: &Arc<Book>) -> Result<String, Failure> {
        let servers = FIRST.map(|id| self.cluster.process(id).resp.clone());
        let before = book.totals().acknowledged;
        self.show.begin(self.writes);
        let started = self.show.elapsed();
        let ((), dead) =
            tokio::try_join!(load::run(book, &servers), self.kill_in_the_middle(book, before))?;
        self.show.end();
        let totals = book.totals();
        let seconds = (self.show.elapsed() - started).as_secs_f64();
        let (count, rate) =
            (grouped(totals.acknowledged - before), f64::from(self.writes) / seconds);
        self.show.event(
            "written",
            format!("{count} writes acknowledged, {rate:.0} a second all in all"),
        );
        self.show.event(
            "no writes",
            format!(
                "were accepted for {:.2} s, the longest silence after the kill",
                totals.longest_silence.as_secs_f64()
            ),
        );
        self.show.event(
            "repeated",
            format!(
                "{} writes of unknown outcome, {} refused ones (a key has one value: no harm)",
                grouped(totals.unknown),
                grouped(totals.refused)
            ),
        );
        Ok(dead)
    }

    async fn kill_in_the_middle(&mut self, book: &Book, before: u32) -> Result<String, Failure> {
        let written = || book.totals().acknowledged - before;
        let (mut quarter, mut dead) = (1, None);
        while written() < self.writes {
            self.show.position(written());
            if dead.is_none() && self.writes / 2 <= written() {
                let (leader, _) = self.cluster.leader(None).await?;
                self.cluster.kill(&leader).await?;
                book.open_the_gate();
                let count = grouped(written());
                self.show.event(
                    "killed",
                    format!("leader {leader}, with SIGKILL, after {count} writes"),
                );
                let (next, term) = self.cluster.leader(Some(&leader)).await?;
                self.show.event("leader", format!("{next} leads in term {term}"));
                dead = Some(leader);
            }
            if quarter * (self.writes / 4) <= written() && quarter < 4 {
                if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
                    self.show.event("writing", format!("{} acknowledged", grouped(written())));
                }
                quarter += 1;
            }
            sleep(POLL).await;
        }
        dead.ok_or_else(|| Failure::new("the writes were over before the leader could be killed"))
    }

    /// Everything acknowledged is everywhere, and nothing else is.
    async fn compare(&self, book: &Book) -> Result<(), Failure> {
        check::agreement(self.cluster).await?;
        let expected = book.acknowledged();
        for id in self.cluster.running() {
            check::holds(self.cluster, &id, &expected).await?;
        }
        let count = grouped(expected.len() as u64);
        let servers = self.cluster.running().join(", ");
        self.show.event("compared", format!("all {count} acknowledged writes are on {servers}"));
        Ok(())
    }

    async fn bring_back(&mut self, book: &Book, dead: &str) -> Result<(), Failure> {
        self.cluster.start(dead, Start::Again)?;
        self.cluster.ready(dead).await?;
        self.show.event("restarted", format!("{dead}, with what was on its disk"));
        self.compare(book).await?;
        self.show_checksums().await
    }

    async fn show_checksums(&self) -> Result<(), Failure> {
        let agreed = check::agreement(self.cluster).await?;
        let (index, keys, checksum) =
            (grouped(agreed.index), grouped(agreed.keys), agreed.checksum);
        for id in self.cluster.running() {
            let text = format!("{id}  {checksum}  {keys} keys at entry {index}");
            self.show.event("checksum", text);
        }
        Ok(())
    }

    async fn change_members(&mut self, book: &Book) -> Result<(), Failure> {
        self.shorten_the_log().await?;
        self.cluster.start(FOURTH, Start::Joining(FIRST[0]))?;
        self.cluster.ready(FOURTH).await?;
        self.members_are(&["a", "b", "c", "d"]).await?;
        self.show
            .event("added", format!("{FOURTH}, a fourth server, by a snapshot and what followed"));
        self.compare(book).await?;

        let (leader, _) = self.cluster.leader(None).await?;
        // One of the first that does not lead.
        let leaving = FIRST.into_iter().find(|id| *id != leader).unwrap_or(FIRST[0]);
        self.cluster.ask(&leader, &format!("/members/{leaving}"), Ask::Delete).await?;
        self.cluster.kill(leaving).await?;
        let staying: Vec<_> =
            ["a", "b", "c", "d"].into_iter().filter(|id| *id != leaving).collect();
        self.members_are(&staying).await?;
        self.show.event("removed", format!("{leaving}; the members are {}", staying.join(", ")));
        self.show_checksums().await
    }

    /// Has the leader forget the beginning of its log, so that the next one to come is in need of a
    /// snapshot.
    async fn shorten_the_log(&self) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + cluster::PATIENCE;
        let (leader, _) = self.cluster.leader(None).await?;
        let taken = self.cluster.ask(&leader, "/snapshot", Ask::Post(json!({}))).await?;
        loop {
            let status = self.cluster.ask(&leader, "/status", Ask::Get).await?;
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            let first = number(&status["raft"]["marks"]["first"]);
            if 1 < first {
                let bytes = grouped(number(&taken["size_bytes"]));
                let text =
                    format!("of {bytes} bytes: the log of {leader} begins at {}", grouped(first));
                self.show.event("snapshot", text);
                return Ok(());
            }
            if deadline < tokio::time::Instant::now() {
                return Err(Failure::new(format!("the log of {leader} does not get shorter")));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until every running server knows these members.
    async fn members_are(&self, expected: &[&str]) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + cluster::PATIENCE;
        loop {
            let mut known = Vec::new();
            for id in self.cluster.running() {
                let answer = self.cluster.ask(&id, "/members", Ask::Get).await?;
                let members = answer["members"].as_array().cloned().unwrap_or_default();
                let ids = members.iter().map(|m| m["id"].as_str().unwrap_or_default().to_owned());
                known.push(ids.collect::<Vec<_>>());
            }
            if known.iter().all(|members| members == expected) {
                return Ok(());
            }
            if deadline < tokio::time::Instant::now() {
                return Err(Failure::new(format!("the members are {known:?}, not {expected:?}")));
            }
            sleep(POLL).await;
        }
    }

    /// The new member answers like the others, through the leader.
    async fn say_goodbye(&self) -> Result<(), Failure> {
        let resp = &self.cluster.process(FOURTH).resp;
        let asked = async {
            let mut client = Client::connect(resp, cluster::PATIENCE).await?;
            client.ask(&["GET", "tz:Europe/Berlin"]).await
        };
        let answer = asked.await.map_err(|error| Failure::new(format!("{FOURTH}: {error}")))?;
        let crate::resp::Reply::Bulk(value) = answer else {
            return Err(Failure::new(format!(
                "{FOURTH} does not know tz:Europe/Berlin: {answer:?}"
            )));
        };
        let value = String::from_utf8_lossy(&value).into_owned();
        self.show.event("read", format!("tz:Europe/Berlin is {value:?}, says {FOURTH}"));
        Ok(())
    }
}
