#!/usr/bin/env bash
# Makes the pictures of the README again: the overview of the dashboard in light and dark colours, and
# `status --watch`. Needs `chromium` and `chromedriver`.
# Usage: tests/scripts/pictures.sh
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
README_PICTURES="$root/tests/results" cargo test -p consumer-tests --test pictures -- --nocapture
ls -l "$root"/tests/results/*.png
