//! Counts the events that each peer loses when transactions commit out of order.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Duration, Instant};

use consumer_tests::measuring::server;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use crate::deposits::{Deposit, HANDLED, TABLES};
use crate::peer::Peer;
use crate::plan::{Plan, WRITERS};

/// Delays the commit of every append and rolls back one in five. None of the peers appends in the
/// caller's transaction, so the delay is in the database, the same for all: in a deferred trigger,
/// which runs where deferred constraints are checked.
const SLOW_COMMITS: &str = "
CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep({seconds});
    IF random() < 0.2 THEN
        RAISE EXCEPTION 'rolled back';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER take_time AFTER INSERT ON {events}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION take_time()";

/// How long the commits of appends take.
#[derive(Clone, Copy)]
pub(crate) enum Commits {
    /// Up to 50 ms each.
    Short,
    /// The same, but 2 s for one in fifty, as with a stalled synchronous standby.
    SomeLong,
}

impl Commits {
    pub(crate) const ALL: [Self; 2] = [Self::Short, Self::SomeLong];

    fn seconds(self) -> &'static str {
        match self {
            Self::Short => "0.05 * random()",
            Self::SomeLong => "CASE WHEN random() < 0.02 THEN 2 ELSE 0.05 * random() END",
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Short => "commits of up to 50 ms",
            Self::SomeLong => "one commit in fifty takes 2 s",
        }
    }
}

/// How many of the events were lost, repeated and rolled back.
pub(crate) struct Lost {
    pub(crate) commits: Commits,
    pub(crate) committed: usize,
    pub(crate) rolled_back: usize,
    pub(crate) unhandled: usize,
    pub(crate) repeated: usize,
}

pub(crate) async fn run<P: Peer>(plan: &Plan) -> Vec<Lost> {
    let mut all = Vec::new();
    for commits in Commits::ALL {
        let lost = once::<P>(plan, commits).await;
        println!("{lost}, {}", P::name());
        all.push(lost);
    }
    all
}

async fn once<P: Peer>(plan: &Plan, commits: Commits) -> Lost {
    let database = server().database().await;
    let pool = &database.pool;
    let peer = P::open(&database.url, HANDLED).await;
    let slow_commits = SLOW_COMMITS
        .replace("{seconds}", commits.seconds())
        .replace("{events}", P::EVENTS);
    for script in [TABLES.to_owned(), slow_commits] {
        sqlx::raw_sql(AssertSqlSafe(script))
            .execute(pool)
            .await
            .expect("prepare the database");
    }
    let following = peer.follow().await;
    let committed = append(&peer, plan.appends).await;
    assert_eq!(
        committed.len(),
        stored::<P>(pool).await,
        "a failed append was stored, or a successful one was not"
    );
    let handled = settled(pool, committed.len()).await;
    following.stop().await;
    let distinct: HashSet<i64> = handled.iter().copied().collect();
    Lost {
        commits,
        committed: committed.len(),
        rolled_back: WRITERS * plan.appends - committed.len(),
        unhandled: committed.difference(&distinct).count(),
        repeated: handled.len() - distinct.len(),
    }
}

/// Runs all writers and returns the deposits that they committed.
async fn append<P: Peer>(peer: &P, appends: usize) -> HashSet<i64> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(peer.clone(), writer, appends));
    }
    writers.join_all().await.into_iter().flatten().collect()
}

async fn write<P: Peer>(peer: P, writer: usize, appends: usize) -> Vec<i64> {
    let mut committed = Vec::new();
    for n in 0..appends {
        let account = format!("writer-{writer}");
        let deposit = Deposit::new(writer * appends + n, account, committed.len() + 1);
        let number = deposit.number;
        if peer.append(deposit).await.is_ok() {
            committed.push(number);
        }
    }
    committed
}

async fn stored<P: Peer>(pool: &PgPool) -> usize {
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {}", P::EVENTS));
    let stored: i64 = sqlx::query_scalar(count)
        .fetch_one(pool)
        .await
        .expect("count the events");
    stored as usize
}

/// Returns the handled deposits, once all were handled or no more have arrived for a while.
async fn settled(pool: &PgPool, committed: usize) -> Vec<i64> {
    // Longer than the poll interval of any peer.
    const QUIET: Duration = Duration::from_secs(6);
    const QUIET_WHEN_ALL: Duration = Duration::from_secs(1);
    let mut handled: Vec<i64> = Vec::new();
    let mut since = Instant::now();
    loop {
        let now: Vec<i64> = sqlx::query_scalar("SELECT number FROM handled")
            .fetch_all(pool)
            .await
            .expect("read what was handled");
        if now.len() != handled.len() {
            since = Instant::now();
        }
        handled = now;
        let quiet = if handled.len() < committed {
            QUIET
        } else {
            QUIET_WHEN_ALL
        };
        if since.elapsed() > quiet {
            return handled;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: of {} events lost {}, repeated {}, {} rolled back",
            self.commits.words(),
            self.committed,
            self.unhandled,
            self.repeated,
            self.rolled_back
        )
    }
}
