#!/usr/bin/env bash
# Removes the clauses of SQL that carry an invariant, one after the other, and shows which tests notice.
# cargo-mutants does not look into strings.
set -uo pipefail

usage() {
    cat <<TEXT
Usage: tests/scripts/sql-mutants.sh [--list] [--check] [NUMBER...]

Runs the mutants of these numbers, or all, and writes a table. Use it in a worktree without changes of
your own: each mutant is written into the source, and taken back after its tests.

  --list   lists the mutants
  --check  checks that every clause is still there, once, and runs nothing

Exits with 1 if a mutant survives, and with 2 if a clause is not there.
TEXT
}

# FILE: TESTS, a description, and the replacements.
mutants() {
    cat <<'LIST'
== consumer/src/backend/postgres/frontier.rs: faults_frontier
a prepared transaction, which has no pid, holds no position
- AND pid IS DISTINCT FROM pg_backend_pid()
+ AND pid <> pg_backend_pid()
== consumer/src/backend/postgres/frontier.rs: faults_frontier rules
the locks of another relation are the evidence
- AND relation = $1::oid AND granted
+ AND relation <> $1::oid AND granted
== consumer/src/backend/postgres/frontier.rs: faults_frontier rules
locks of another mode are the evidence
- AND mode = 'RowExclusiveLock' AND pid IS
+ AND mode = 'ExclusiveLock' AND pid IS
== consumer/src/backend/postgres/frontier.rs: faults_frontier rules
a gap counts as contiguous
- FILTER (WHERE p - $1 = n)
+ FILTER (WHERE p - $1 >= n)
== consumer/src/backend/postgres/frontier.rs: faults_frontier rules faults_load
the evidence is read before the rows
- let mut window = self.read_window(connection).await?;
+ let early = self.read_holders(connection).await; let mut window = self.read_window(connection).await?;
- self.weigh_evidence(connection, highest).await?;
+ self.weigh_evidence(early?, highest).await?;
- async fn weigh_evidence(
+ #[allow(clippy::unused_async)] async fn weigh_evidence(
- connection: &mut PgConnection,
        highest: i64,
+ now: HashSet<String>, highest: i64,
- let now = self.read_holders(connection).await?;
+
== consumer/src/backend/postgres/frontier.rs: faults_frontier silent_server
the durable frontier goes back
- WHERE f.settled < excluded.settled"
+ WHERE true"
== consumer/src/backend/postgres/frontier.rs: faults_frontier silent_server
a frontier is saved in another incarnation of the server
- SELECT $1, $2 WHERE ",
+ SELECT $1, $2 WHERE true OR ",
== consumer/src/backend/postgres/frontier.rs: silent_server
row-level security is not looked at
- row_security_active($2::oid) AS hidden
+ false AS hidden
== consumer/src/backend/checkpoints.rs: silent_logs
the checkpoints of other logs are compared with this sequence
- WHERE NOT EXISTS (SELECT 1 FROM {logs} AS l WHERE l.consumer = p.consumer AND l.log <> '{log}')
+ WHERE true
== consumer/src/backend/postgres/marker.rs: silent_server
a standby looks like a primary
- pg_is_in_recovery()::int]
+ 0]
== consumer/src/backend/postgres/events.rs: faults_frontier rules silent_server
a read goes beyond what is settled
- {global_position} <= $2
ORDER BY {global_position} LIMIT $3
+ {global_position} <= $2 + 2
ORDER BY {global_position} LIMIT $3
== consumer/src/backend/postgres/checkpoints.rs: processes worker_running
a claim waits for the process that has the row
- FOR UPDATE SKIP LOCKED)
        SELECT
+ FOR UPDATE)
        SELECT
== consumer/src/backend/postgres/checkpoints.rs: processes
a frozen process keeps its claim
- set_config('idle_in_transaction_session_timeout', $4, true)
+ set_config('idle_in_transaction_session_timeout', '0', true)
== consumer/src/backend/postgres/checkpoints.rs: rules silent_commit
a save does not compare the position
- AND position = $10 AND epoch = $11
+ AND $10::bigint IS NOT NULL AND epoch = $11
== consumer/src/backend/postgres/checkpoints.rs: rules silent_commit admin
a save does not compare the epoch
- AND position = $10 AND epoch = $11
+ AND position = $10 AND $11::bigint IS NOT NULL
== consumer/src/backend/postgres/checkpoints.rs: rules
a save does not compare the transaction
- AND pg_current_xact_id()::text = $16
+ AND $16::text IS NOT NULL
== consumer/src/backend/postgres/checkpoints.rs: silent_replay
the high-water mark of versions is not locked
- SELECT pg_try_advisory_xact_lock(hashtextextended($1, 7166182912370463011)) AS locked
+ SELECT $1::text = $1 AS locked
== consumer/src/backend/postgres/checkpoints.rs: rebuild silent_commands segments
an idle row is advanced in another epoch
- WHERE p.epoch = m.epoch AND p.slice_to
+ WHERE p.slice_to
== consumer/src/backend/postgres/checkpoints.rs: segments segments_operated
an idle row is advanced after it was resized
- AND p.slice_to = m.slice_to AND p.state
+ AND p.state
== consumer/src/backend/postgres/checkpoints.rs: admin stopped worker_policies
a paused row is advanced
- AND p.state = 'running'
               -- An event
+ -- An event
== consumer/src/backend/postgres/checkpoints.rs: silent_commands segments_operated
a row is advanced past the event that it is to retry
- AND (p.attempts = 0 OR p.failed_position <= m.high) AND p.position
+ AND p.position
== consumer/src/backend/postgres/checkpoints.rs: silent_commands rebuild
a row that went back is advanced
- AND p.position >= m.low
+
== consumer/src/backend/postgres/checkpoints.rs: segments segments_operated
a row that waits for its neighbour is advanced
- SELECT p.consumer, p.version, p.slice_from,
                   LEAST(m.high, CASE WHEN p.hold_until > {now} THEN p.hold_at END) AS high
+ SELECT p.consumer, p.version, p.slice_from, m.high AS high
== consumer/src/backend/postgres/checkpoints.rs: processes faults_frontier
what was seen in another incarnation advances rows
- server_incarnation!(is "$8", "$9"),
+ "$8::bigint = $8 AND $9::bigint = $9",
== consumer/src/backend/checkpoints.rs: segments segments_operated
rows are split and merged without a lock
- ORDER BY slice_from {for update}"
+ ORDER BY slice_from"
== consumer/src/backend/checkpoints.rs: silent_replay
a new version starts at the frontier
- WHERE consumer = $1 AND position < $5 AND version = (
+ WHERE false AND consumer = $1 AND position < $5 AND version = (
== consumer/src/backend/checkpoints.rs: silent_logs
a consumer joins any log
- SELECT log FROM {logs} WHERE consumer = $1 AND log <> '{log}'
+ SELECT log FROM {logs} WHERE consumer = $1 AND log = 'x' || '{log}'
== consumer/src/backend/ledger.rs: silent_replay retry
a parked event counts as handled
- k.position > p.began AND k.position <= p.position
+ k.position > p.began AND k.position < p.began
== consumer/src/backend/ledger.rs: silent_replay retry
a parked replay counts as not handled
- AND NOT k.replay AND ",
+ AND ",
== consumer/src/backend/ledger.rs: silent_replay retry
a range ends at its parked event
- OVER (PARTITION BY version, slice_from ORDER BY after) - 1 AS up_to
+ OVER (PARTITION BY version, slice_from ORDER BY after) AS up_to
== consumer/src/backend/ledger.rs: silent_replay
a range begins after its first event
- SELECT consumer, version, slice_from, slice_to, scope, began, position
          FROM
+ SELECT consumer, version, slice_from, slice_to, scope, began + 1, position
          FROM
== consumer/src/backend/ledger.rs: silent_replay rebuild
a row that was folded keeps its range
- SET began = position
+ SET began = began
== consumer/src/backend/ledger.rs: silent_replay history_sqlite
the wider of two ranges is removed
- AND o.after <= h.after AND h.up_to <= o.up_to
+ AND o.after >= h.after AND h.up_to <= o.up_to
== consumer/src/backend/ledger.rs: silent_replay
an event that was retried is kept for its row too
- AND p.began < k.position AND k.position <= p.position)"
+ AND false)"
== consumer/src/backend/sqlite/checkpoints.rs: rules silent_commit history_sqlite
a save on SQLite does not compare the position
- AND position = $10 AND epoch = $11
+ AND $10 IS NOT NULL AND epoch = $11
== consumer/src/backend/sqlite/checkpoints.rs: rules silent_commit history_sqlite
a save on SQLite does not compare the epoch
- AND position = $10 AND epoch = $11
+ AND position = $10 AND $11 IS NOT NULL
== consumer/src/backend/sqlite/checkpoints.rs: silent_commands rebuild history_sqlite
an idle row on SQLite is advanced in another epoch
- AND slice_from = $3 AND epoch = $4 AND slice_to = $7
+ AND slice_from = $3 AND $4 = $4 AND slice_to = $7
LIST
}

# edit NUMBER MODE: prints the file, the tests and the description of a mutant, after it was written into
# the source (MODE `apply`) or only looked for (MODE `check`).
edit() {
    mutants | perl -0777 -e '
        my ($number, $mode) = @ARGV;
        my @blocks = split /^== /m, <STDIN>;
        exit 3 if $number > $#blocks;
        my ($head, $what, $pairs) = split /\n/, $blocks[$number], 3;
        my ($file, $tests) = $head =~ /^(\S+): (.*)$/ or die $head;
        open my $in, "<", $file or die "$file: $!"; my $text = <$in>; close $in;
        for my $pair (split /^- /m, $pairs) {
            next if $pair eq "";
            my ($from, $to) = $pair =~ /^(.*?)\n\+ ?(.*?)\n*$/s or die "$what: $pair";
            my $count = () = $text =~ /\Q$from\E/g;
            if ($count != 1) { print STDERR "$number ($what): found $count times: $from\n"; exit 2 }
            $text =~ s/\Q$from\E/$to/;
        }
        if ($mode eq "apply") { open my $out, ">", $file or die; print $out $text; close $out }
        print "$file\t$tests\t$what\n";
    ' -- "$1" "$2"
}

# run NUMBER: whether a test noticed, and which.
run() {
    local number=$1 line file tests what backup status log caught
    line=$(edit "$number" check) || return 2
    IFS=$'\t' read -r file tests what <<<"$line"
    backup=$(mktemp) log=$(mktemp)
    cp "$file" "$backup"
    trap 'cp "$backup" "$file"; exit 2' INT TERM
    edit "$number" apply >/dev/null
    local chosen=()
    for test in $tests; do chosen+=(--test "$test"); done
    timeout "${MUTANT_SECONDS:-1200}" cargo test -p consumer-tests "${chosen[@]}" >"$log" 2>&1
    status=$?
    cp "$backup" "$file"
    trap - INT TERM
    if grep -q '^error' "$log" && ! grep -q '^running' "$log"; then
        caught="does not compile"
    elif [ $status = 0 ]; then
        caught="**survived**"
    elif [ $status = 124 ]; then
        caught="timeout"
    else
        caught="\`$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | head -n 1)\`"
    fi
    printf '| %s | %s | %s | %s |\n' "$number" "${file#consumer/src/}" "$what" "$caught"
    rm -f "$backup" "$log"
    [ $status != 0 ]
}

cd "$(dirname "$0")/../.." || exit 2
mode=run numbers=()
for argument in "$@"; do
    case $argument in
    --list | --check) mode=${argument#--} ;;
    -h | --help) usage; exit ;;
    *[!0-9]*) usage >&2; exit 2 ;;
    *) numbers+=("$argument") ;;
    esac
done
if [ ${#numbers[@]} = 0 ]; then
    for number in $(seq "$(mutants | grep -c '^== ')"); do numbers+=("$number"); done
fi
result=0
[ $mode != run ] || printf '| number | file | mutant | caught by |\n|---|---|---|---|\n'
for number in "${numbers[@]}"; do
    case $mode in
    list) edit "$number" check | sed "s/^/$number\t/" ;;
    check) edit "$number" check >/dev/null || result=2 ;;
    run)
        run "$number"
        status=$?
        [ $status -le $result ] || result=$status
        ;;
    esac
done
exit $result
