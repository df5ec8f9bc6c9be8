#!/usr/bin/env bash
# Compares what a crate of 100 consumers takes to build (dev profile, clean, its dependencies
# built before) with `#[consumer]` and with the same implementations written by hand. The best of
# several runs counts: noise only ever adds. Usage: tests/scripts/build-time.sh [consumers] [runs]
set -eu
consumers=${1:-100}
runs=${2:-7}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/build-time"

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
sqlx = { version = "0.9", default-features = false, features = ["any"] }
[workspace]
TOML
    {
        echo 'use consumer::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer, consumer};'
        echo 'use sqlx::{Any, AnyConnection};'
        n=0
        while [ "$n" -lt "$consumers" ]; do
            "$2" "$n"
            n=$((n + 1))
        done
    } >"$work/$1/src/lib.rs"
    sed -i "$3" "$work/$1/src/lib.rs"
}

handler() {
    cat <<RUST
    async fn handle(&self, tx: &mut AnyConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO table_$1 (id, position) VALUES (?, ?)")
            .bind(&event.aggregate_id)
            .bind(event.global_position)
            .execute(&mut *tx)
            .await?;
        Ok(())
    }
RUST
}

with_macro() {
    echo "pub struct C$1;"
    echo "#[consumer(name = \"consumer_$1\", aggregates = [\"User\"])]"
    echo "impl C$1 {"
    handler "$1"
    echo "}"
}

by_hand() {
    echo "pub struct C$1;"
    echo "impl C$1 {"
    handler "$1"
    cat <<RUST
}
impl Consumer<Any> for C$1 {
    fn name(&self) -> &str { "consumer_$1" }
    async fn handle(&self, _cx: &Context, tx: &mut AnyConnection, event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(C$1::handle(self, tx, event).await?)
    }
}
impl ScopedConsumer<Any> for C$1 {
    fn aggregate_types(&self) -> &[&str] { &["User"] }
}
RUST
}

build() {
    (cd "$work/$1" && cargo build --quiet)
}

# Processor time of one clean build, in milliseconds: unlike the clock it does not count what else
# the machine does.
TIMEFORMAT='%U %S'
measure() {
    (cd "$work/$1" && cargo clean --quiet -p "$1")
    { time build "$1" 2>/dev/null; } 2>&1 | awk '{ printf "%d", ($1 + $2) * 1000 }'
}

least() {
    if [ -z "$1" ] || [ "$2" -lt "$1" ]; then echo "$2"; else echo "$1"; fi
}

write_crate with-macro with_macro 's/^use consumer::.*/use consumer::{PersistedEvent, consumer};/; s/^use sqlx::.*/use sqlx::AnyConnection;/'
write_crate by-hand by_hand 's/, consumer};$/};/'
# By hand means registered by hand, too: a list that names each consumer.
n=0
{
    echo 'pub fn all() -> Vec<consumer::Registered<Any>> { vec!['
    while [ "$n" -lt "$consumers" ]; do
        echo "    consumer::Registered::scoped(C$n),"
        n=$((n + 1))
    done
    echo ']}'
} >>"$work/by-hand/src/lib.rs"

build with-macro
build by-hand
with_macro_time=
by_hand_time=
n=0
while [ "$n" -lt "$runs" ]; do
    with_macro_time=$(least "$with_macro_time" "$(measure with-macro)")
    by_hand_time=$(least "$by_hand_time" "$(measure by-hand)")
    n=$((n + 1))
done
echo "$consumers consumers: with the macro $with_macro_time ms, by hand $by_hand_time ms, ratio $((with_macro_time * 100 / by_hand_time)) %"
