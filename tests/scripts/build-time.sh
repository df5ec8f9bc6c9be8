#!/usr/bin/env bash
# Compares what a crate of 100 consumers takes to build (dev profile, clean, its dependencies built
# before) with `#[consumer]` and written by hand, as a person would write it: one body in
# `Consumer::handle`, or a method for each event and a `match` that calls them, and a list of the
# consumers. Fails when the macro takes more than 1.3 times as long.
# Usage: tests/scripts/build-time.sh [consumers] [runs]
#
# For comparison alone it shows typed handlers beside a `match` with all code in its arms, too: what
# lies between is the price of a method for each event, which nobody can write away.
#
# What counts is the processor time of one build, which other work on the machine changes little; the
# two crates are built in turn, so that what it does change falls on both.
set -eu
consumers=${1:-100}
runs=${2:-7}
limit=1.3
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/build-time"

# write_crate NAME: standard input is its source.
write_crate() {
    mkdir -p "$work/$1/src"
    cp "$root/Cargo.lock" "$root/rust-toolchain.toml" "$work/$1/"
    cat >"$work/$1/Cargo.toml" <<TOML
[package]
name = "$1"
version = "0.0.0"
edition = "2024"
[dependencies]
consumer = { path = "$root/consumer", default-features = false, features = ["auto-register"] }
serde = { version = "1", features = ["derive"] }
sqlx = { version = "0.9", default-features = false, features = ["any"] }
[workspace]
TOML
    cat >"$work/$1/src/lib.rs"
}

# for_each TEMPLATE: the template of every consumer.
for_each() {
    local n=0
    while [ "$n" -lt "$consumers" ]; do
        "$1" "$n"
        n=$((n + 1))
    done
}

statement() {
    cat <<RUST
        sqlx::query("$1 table_$2 (id, position) VALUES (?, ?)")
            .bind(&event.aggregate_id)
            .bind(event.global_position)
            .execute(&mut *tx)
            .await?;
RUST
}

# One handler of every event.

handle_by_macro() {
    echo "pub struct C$1;"
    echo "#[consumer(name = \"consumer_$1\", aggregates = [\"User\"])]"
    echo "impl C$1 {"
    echo "    async fn handle(&self, tx: &mut AnyConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {"
    statement "INSERT INTO" "$1"
    echo "        Ok(())"
    echo "    }"
    echo "}"
}

handle_by_hand() {
    by_hand "$1" statement_of_handle
}

statement_of_handle() {
    statement "INSERT INTO" "$1"
}

# by_hand NUMBER BODY: the implementations, with that body in `handle`.
by_hand() {
    cat <<RUST
pub struct C$1;
impl Consumer<Any> for C$1 {
    fn name(&self) -> &str { "consumer_$1" }
    async fn handle(&self, _cx: &Context, tx: &mut AnyConnection, event: &PersistedEvent) -> Result<(), HandlerError> {
RUST
    "$2" "$1"
    cat <<RUST
        Ok(())
    }
}
impl ScopedConsumer<Any> for C$1 {
    fn aggregate_types(&self) -> &[&str] { &["User"] }
}
RUST
}

# Registered by hand, too: a list that names each consumer.
list() {
    echo 'pub fn all() -> Vec<consumer::Registered<Any>> { vec!['
    for_each list_one
    echo ']}'
}

list_one() {
    echo "    consumer::Registered::scoped(C$1),"
}

# Three handlers of typed events.

events() {
    cat <<RUST
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
pub struct UserRegistered { pub email: String }
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
pub struct UserRenamed { pub name: String }
#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
pub struct UserDeleted {}
RUST
}

typed_by_macro() {
    echo "pub struct C$1;"
    echo "#[consumer(name = \"consumer_$1\", aggregates = [\"User\"])]"
    echo "impl C$1 {"
    typed_methods "$1"
    echo "}"
}

typed_methods() {
    typed_handler "$1" registered UserRegistered "INSERT INTO"
    typed_handler "$1" renamed UserRenamed "UPSERT INTO"
    typed_handler "$1" deleted UserDeleted "DELETE FROM"
}

typed_handler() {
    echo "    #[on]"
    echo "    async fn $2(&self, tx: &mut AnyConnection, event: Envelope<'_, $3>) -> Result<(), sqlx::Error> {"
    statement "$4" "$1"
    echo "        Ok(())"
    echo "    }"
}

typed_by_hand() {
    echo "impl C$1 {"
    typed_methods "$1" | grep -v '#\[on\]'
    echo "}"
    by_hand "$1" match_of_methods
}

match_of_methods() {
    cat <<RUST
        match &*event.event_type {
            "UserRegistered" => self.registered(tx, Envelope { payload: UserRegistered::decode(event)?, record: event }).await?,
            "UserRenamed" => self.renamed(tx, Envelope { payload: UserRenamed::decode(event)?, record: event }).await?,
            "UserDeleted" => self.deleted(tx, Envelope { payload: UserDeleted::decode(event)?, record: event }).await?,
            _ => {}
        }
RUST
}

typed_in_one_body() {
    by_hand "$1" match_of_types
}

match_of_types() {
    echo '        match &*event.event_type {'
    arm "$1" UserRegistered "INSERT INTO"
    arm "$1" UserRenamed "UPSERT INTO"
    arm "$1" UserDeleted "DELETE FROM"
    echo '            _ => {}'
    echo '        }'
}

arm() {
    echo "            \"$2\" => {"
    echo "                let event = Envelope { payload: $2::decode(event)?, record: event };"
    statement "$3" "$1"
    echo "            }"
}

write_handle() {
    {
        echo 'use consumer::{PersistedEvent, consumer};'
        echo 'use sqlx::AnyConnection;'
        for_each handle_by_macro
    } | write_crate handle-by-macro
    {
        echo 'use consumer::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer};'
        echo 'use sqlx::{Any, AnyConnection};'
        for_each handle_by_hand
        list
    } | write_crate handle-by-hand
}

write_typed() {
    {
        echo 'use consumer::{Envelope, Event, consumer};'
        echo 'use serde::{Deserialize, Serialize};'
        echo 'use sqlx::AnyConnection;'
        events
        for_each typed_by_macro
    } | write_crate typed-by-macro
    for kind in typed_by_hand typed_in_one_body; do
        {
            echo 'use consumer::{Consumer, Context, Envelope, Event, HandlerError, PersistedEvent, ScopedConsumer};'
            echo 'use serde::{Deserialize, Serialize};'
            echo 'use sqlx::{Any, AnyConnection};'
            events
            for_each "$kind"
            list
        } | write_crate "${kind//_/-}"
    done
}

build() {
    (cd "$work/$1" && cargo build --quiet)
}

# Processor time of one clean build, in milliseconds.
TIMEFORMAT='%U %S'
measure() {
    (cd "$work/$1" && cargo clean --quiet -p "$1")
    { time build "$1" 2>/dev/null; } 2>&1 | awk '{ printf "%d", ($1 + $2) * 1000 }'
}

# compare TITLE MACRO HAND [LIMIT]: prints times and ratios of two crates, and fails above the limit.
compare() {
    build "$2"
    build "$3"
    local n=0
    while [ "$n" -lt "$runs" ]; do
        echo "$(measure "$2") $(measure "$3")"
        n=$((n + 1))
    done | awk -v kind="$1" -v consumers="$consumers" -v limit="${4:-0}" '
        { macro[NR] = $1; hand[NR] = $2; ratio[NR] = $1 / $2 }
        function sorted(list, count,    i, j, held) {
            for (i = 2; i <= count; i++)
                for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
                    held = list[j]; list[j] = list[j - 1]; list[j - 1] = held
                }
        }
        END {
            sorted(macro, NR); sorted(hand, NR); sorted(ratio, NR)
            middle = int((NR + 1) / 2)
            printf "%s: %d consumers, %d runs, min/median/max\n", kind, consumers, NR
            printf "  with the macro  %d / %d / %d ms\n", macro[1], macro[middle], macro[NR]
            printf "  by hand         %d / %d / %d ms\n", hand[1], hand[middle], hand[NR]
            printf "  ratio           %.2f / %.2f / %.2f\n", ratio[1], ratio[middle], ratio[NR]
            if (limit > 0 && ratio[middle] > limit) {
                printf "%s: the macro takes more than %.1f times as long\n", kind, limit
                exit 1
            }
        }'
}

write_handle
write_typed
failed=0
compare "one handler" handle-by-macro handle-by-hand "$limit" || failed=1
compare "typed handlers" typed-by-macro typed-by-hand "$limit" || failed=1
compare "typed handlers beside one body" typed-by-macro typed-in-one-body
exit "$failed"
