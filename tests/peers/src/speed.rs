//! Times how fast each peer catches up with a full log.

use std::fmt::Display;
use std::time::Instant;

use consumer_tests::PgDatabase;
use consumer_tests::measuring::{Samples, figure, in_turns, rate, server};

use crate::deposits::{BALANCE, TABLES, check, deposits};
use crate::ours::Ours;
use crate::peer::Peer;
use crate::plan::Plan;

/// Events a second.
pub(crate) struct Speed {
    pub(crate) theirs: Samples,
    pub(crate) ours: Samples,
}

pub(crate) async fn run<P: Peer>(plan: &Plan) -> Speed {
    let (ours, theirs) = (Log::<Ours>::new(plan).await, Log::<P>::new(plan).await);
    let (ours, theirs) = in_turns(
        plan.rounds,
        async || ours.catch_up().await,
        async || theirs.catch_up().await,
    )
    .await;
    let speed = Speed { theirs, ours };
    println!("{speed} {}", P::name());
    speed
}

impl Speed {
    /// The speed of ours divided by theirs, round by round.
    pub(crate) fn ratio(&self) -> Samples {
        self.ours.by(&self.theirs)
    }
}

impl Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let median = |samples: &Samples| figure(samples.median());
        write!(
            f,
            "{:>8} events/s, ours {}, {} times,",
            median(&self.theirs),
            median(&self.ours),
            median(&self.ratio())
        )
    }
}

/// A log in a separate database.
struct Log<P> {
    database: PgDatabase,
    peer: P,
    events: usize,
}

impl<P: Peer> Log<P> {
    async fn new(plan: &Plan) -> Self {
        let database = server().database().await;
        let peer = P::open(&database.url, BALANCE).await;
        let log = Self {
            database,
            peer,
            events: plan.events,
        };
        log.execute(TABLES).await;
        log.peer.fill(deposits(plan.events).collect()).await;
        log.execute("VACUUM ANALYZE").await;
        log
    }

    async fn catch_up(&self) -> f64 {
        self.execute("TRUNCATE balances").await;
        self.execute(P::FORGET).await;
        // So that this round does not flush what an earlier one wrote.
        self.execute("CHECKPOINT").await;
        let start = Instant::now();
        self.peer.catch_up(self.events).await;
        let time = start.elapsed();
        check(&self.database.pool, self.events).await;
        rate(self.events, time)
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql)
            .execute(&self.database.pool)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}
