//! One consumer of 16 segments in several processes, beside one process.

use std::process::Stdio;
use std::time::Duration;

use consumer::{PgEventStore, Worker, WorkerHandle};
use consumer_tests::Delay;
use consumer_tests::measuring::{Arguments, all_in_turns, rate, server, timed};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::case::{Case, Target};
use crate::consumers::{RowsPostgres, SetsPostgres};
use crate::log::Log;
use crate::plan::Plan;

const SEGMENTS: u32 = 16;

/// Of a process: four for lanes, two for the log, and one that it leaves to the rest of the program.
const CONNECTIONS: u32 = 7;

/// What is measured: the processes, the connections of each, and the name.
const MEASURED: [(usize, u32, &str); 4] = [
    (1, CONNECTIONS, "1 process"),
    (2, CONNECTIONS, "2 processes"),
    (4, CONNECTIONS, "4 processes"),
    (1, 4 * CONNECTIONS, "1 process with the connections of 4"),
];

/// A handler, and the way to the server.
struct Setting {
    name: &'static str,
    sets: bool,
    is_near: bool,
    events: usize,
    /// For each of [`MEASURED`] beside the first.
    targets: [Target; 3],
}

const SETTINGS: [Setting; 4] = [
    Setting {
        name: "one statement per event",
        sets: false,
        is_near: true,
        events: 50_000,
        targets: [Target::None; 3],
    },
    Setting {
        name: "one statement per batch",
        sets: true,
        is_near: true,
        events: 200_000,
        targets: [Target::None; 3],
    },
    Setting {
        name: "one statement per event, network 1 ms slower",
        sets: false,
        is_near: false,
        events: 20_000,
        targets: [
            Target::AtLeast(1.6),
            Target::AtLeast(2.5),
            Target::AtLeast(2.5),
        ],
    },
    Setting {
        name: "one statement per batch, network 1 ms slower",
        sets: true,
        is_near: false,
        events: 200_000,
        targets: [Target::None; 3],
    },
];

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    for setting in SETTINGS {
        let names = setting.names();
        if plan.wants_any(&names.each_ref().map(|name| &**name)) {
            cases.extend(measure(plan, &setting, names).await);
        }
    }
    cases
}

impl Setting {
    /// The names of its cases.
    fn names(&self) -> [String; 3] {
        let [_, beside @ ..] = MEASURED;
        beside.map(|(_, _, processes)| format!("{processes} beside 1, {}", self.name))
    }
}

async fn measure(plan: &Plan, setting: &Setting, names: [String; 3]) -> Vec<Case> {
    let log = Log::<Postgres>::new(plan.scaled(setting.events, 500)).await;
    let network = Delay::before(server().port(), Duration::from_millis(1)).await;
    let url = if setting.is_near {
        log.db.url.clone()
    } else {
        network.url(&log.db.url)
    };
    let rounds = plan.rounds.min(5);
    let [one, several @ ..]: [_; MEASURED.len()] = all_in_turns(rounds, async |which| {
        let (processes, connections, _) = MEASURED[which];
        let share = Share {
            url: url.clone(),
            connections,
            sets: setting.sets,
        };
        catch_up(&log, &share, processes).await
    })
    .await;
    let cases = names.into_iter().zip(several).zip(setting.targets);
    cases
        .map(|((name, ours), target)| {
            Case::compared(name, "events/s", (ours, one.clone()), "1 process", target)
        })
        .collect()
}

/// Lets processes catch up together, and returns how many events they handled per second.
async fn catch_up(log: &Log<Postgres>, share: &Share, processes: usize) -> f64 {
    log.reset().await;
    let (told, mut handled) = mpsc::unbounded_channel();
    let mut workers = Vec::new();
    for _ in 0..processes {
        workers.push(Process::start(share, told.clone()).await);
    }
    let time = timed(async {
        for worker in &mut workers {
            worker.input.write_all(b"start\n").await.unwrap();
        }
        let mut left = log.events as i64;
        while left > 0 {
            let events = handled.recv().await.flatten();
            left -= events.expect("no worker ends before the last event");
        }
    })
    .await;
    for worker in workers {
        worker.end().await;
    }
    log.check().await;
    rate(log.events, time)
}

/// A process that shares the consumer with others.
struct Process {
    child: Child,
    input: ChildStdin,
}

impl Process {
    /// Starts it, without any event yet. It tells how many events it has handled since it last told so,
    /// and `None` when it has ended.
    async fn start(share: &Share, told: mpsc::UnboundedSender<Option<i64>>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(share.arguments()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some(READY));
        tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                let _ = told.send(Some(line.parse().unwrap()));
            }
            let _ = told.send(None);
        });
        Self { child, input }
    }

    async fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().await.unwrap().success());
    }
}

/// Printed by the child when it waits for its start.
const READY: &str = "ready";

/// What the child runs.
pub(crate) struct Share {
    url: String,
    connections: u32,
    sets: bool,
}

impl Share {
    pub(crate) fn from_arguments(arguments: &mut Arguments) -> Option<Self> {
        Some(Self {
            url: arguments.value("--share")?,
            connections: arguments.value("--connections")?,
            sets: arguments.flag("--sets"),
        })
    }

    fn arguments(&self) -> Vec<String> {
        let connections = self.connections.to_string();
        let mut arguments = vec!["--share", &self.url, "--connections", &connections];
        if self.sets {
            arguments.push("--sets");
        }
        arguments.into_iter().map(str::to_owned).collect()
    }
}

/// The child: waits for a line, then handles events and prints how many, until its input ends.
pub(crate) fn share(share: &Share) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pool = PgPoolOptions::new().max_connections(share.connections);
        let store = PgEventStore::new(pool.connect(&share.url).await.unwrap());
        let worker = if share.sets {
            Worker::builder(store).consumer(SetsPostgres)
        } else {
            Worker::builder(store).consumer(RowsPostgres)
        };
        let worker = worker.configure_all(|settings| settings.segments(SEGMENTS));
        let worker = worker.build().unwrap();
        let mut input = input();
        println!("{READY}");
        input.recv().await;
        tokio::spawn(tell(worker.handle()));
        let report = worker.run(async move { while input.recv().await.is_some() {} });
        let report = report.await.unwrap();
        assert!(!report.has_failures(), "{report}");
    });
}

/// The lines of the input. On a thread, which does not keep the process from ending.
fn input() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    lines
}

async fn tell(handle: WorkerHandle<Postgres>) {
    let mut told = 0;
    loop {
        let handled = handle.consumers().iter().map(|one| one.events).sum();
        if handled > told {
            println!("{}", handled - told);
            told = handled;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
