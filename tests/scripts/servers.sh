#!/usr/bin/env bash
# Runs the tests that use Postgres on several versions of it, and writes a table of the results.
set -uo pipefail

usage() {
    cat <<TEXT
Usage: tests/scripts/servers.sh [OPTIONS] DIRECTORY...

Each DIRECTORY has the programs of one server (initdb, pg_ctl, postgres), which the user \`postgres\` may
run if the tests run as root.

  --storm SECONDS  how long each chaos test lasts (60)
  --no-storm       leave the chaos tests out
  --no-suite       leave all other tests out
  --test NAME      only these tests of the suite; may be repeated
  --logs DIRECTORY where to write what the tests print (a temporary directory)

Exits with 1 if a test failed on any server, and with 2 if it could not run them.
TEXT
}

storm=60 suite=yes names=() logs='' servers=()
while [ $# -gt 0 ]; do
    case $1 in
    --storm | --test | --logs) [ $# -gt 1 ] || { usage >&2; exit 2; } ;;&
    --storm) storm=$2; shift ;;
    --test) names+=("$2"); shift ;;
    --logs) logs=$2; shift ;;
    --no-storm) storm='' ;;
    --no-suite) suite='' ;;
    -h | --help) usage; exit ;;
    -*) echo "unknown option: $1" >&2; usage >&2; exit 2 ;;
    *) servers+=("$(realpath -s "$1")") ;;
    esac
    shift
done
[ ${#servers[@]} -gt 0 ] || { usage >&2; exit 2; }
cd "$(dirname "$0")/../.." || exit 2
for server in "${servers[@]}"; do
    [ -x "$server/initdb" ] || { echo "there is no initdb in $server" >&2; exit 2; }
done
[ -n "$logs" ] || logs=$(mktemp -d)
mkdir -p "$logs"

# Every file that mentions Postgres; the chaos tests are the storm, and the benchmark asserts nothing.
if [ ${#names[@]} = 0 ]; then
    for file in $(grep -li postgres tests/tests/*.rs); do
        name=$(basename "$file" .rs)
        case $name in ui | benchmark | faults_chaos) ;; *) names+=("$name") ;; esac
    done
fi
# As `.ci/test` builds them.
packages=(--workspace --features consumer-examples/services,consumer-examples/encryption)
suite_tests=()
for name in "${names[@]}"; do suite_tests+=(--test "$name"); done

# run LOG COMMAND...: how many tests passed and failed, and which.
run() {
    local log=$1 status=0 passed failed
    shift
    "$@" >"$log" 2>&1 || status=1
    # What a test prints stands before its "ok".
    passed=$(awk '/^test result:/ { passed += $4 } END { print passed + 0 }' "$log")
    failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | paste -sd' ')
    if [ "$status" = 0 ]; then
        echo "$passed passed"
    else
        echo "$passed passed, failed: ${failed:-see $log}"
        return 1
    fi
}

failures=0
row() {
    printf '| %-8s | %-34s | %s |\n' "$1" "$2" "$3"
}
row server suite storm
row -------- ---------------------------------- -----
for server in "${servers[@]}"; do
    export POSTGRES_PROGRAMS=$server
    version=$("$server/postgres" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
    suite_result=- storm_result=-
    if [ -n "$suite" ]; then
        # What fails on one server must not hide what fails in another file.
        suite_result=$(run "$logs/suite-$version.log" cargo test "${packages[@]}" --no-fail-fast \
            "${suite_tests[@]}" -- --skip sqlite) || failures=1
    fi
    if [ -n "$storm" ]; then
        log=$logs/storm-$version.log
        storm_result=$(CHAOS_SECONDS=$storm run "$log" cargo test "${packages[@]}" \
            --test faults_chaos -- --nocapture --test-threads=1) || failures=1
        events=$(sed -n 's/^\(.* \)\{0,1\}\([0-9]* events and [0-9]* gaps\).*/\2/p' "$log" | paste -sd';')
        storm_result="$storm_result: $events"
    fi
    row "$version" "$suite_result" "$storm_result"
done
echo "what the tests printed is in $logs"
exit $failures
