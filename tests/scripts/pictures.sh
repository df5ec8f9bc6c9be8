#!/usr/bin/env bash
# Makes the pictures of the README again: the overview of the dashboard in light and dark colours, and
# `status --watch`. With `all DIRECTORY`, writes every page of the dashboard in every width and colour, and every
# screen and every error of the commands, to look at them. Needs `chromium` and `chromedriver`.
# Usage: tests/scripts/pictures.sh [all DIRECTORY]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ "${1:-}" = all ]; then
    mkdir -p "$2"
    SCREENS=$(cd "$2" && pwd)
    export SCREENS
    cd "$root"
    cargo test -p consumer-tests --test screens --test cli_errors -- --nocapture
    exit
fi
cd "$root"
README_PICTURES="$root/tests/results" cargo test -p consumer-tests --test pictures -- --nocapture
ls -l "$root"/tests/results/*.png
