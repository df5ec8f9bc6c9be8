#!/usr/bin/env python3
"""Runs the mutants that cargo-mutants lists for files, all from one build.

Usage: tests/scripts/cargo_mutants.py [--list] FILE[:FUNCTION,...]... [NUMBER...]

A FILE is one of those in `TESTS`, which names its tests; with functions, only mutants in these; with numbers, only
those mutants of the files. Like `mutants.py`, it writes all mutants into a copy of the worktree, where the environment
variable MUTANT chooses one. Those that do not compile are left out, and called unviable. Writes a table: a test
that fails ends the run of its mutant. Needs `cargo install cargo-mutants`. The environment may set MUTANT_JOBS, how
many mutants are run at once, and MUTANT_SECONDS, how long a binary may take.

  --list  lists the mutants with their numbers, and builds nothing

Exits with 1 if a mutant is missed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from mutants import COPY, ROOT, compiled, copy

SECONDS = int(os.environ.get("MUTANT_SECONDS", "120"))
JOBS = int(os.environ.get("MUTANT_JOBS", "2"))
FEATURES = "consumer-examples/services,consumer-examples/encryption"

# The tests of a file, in the order in which they are run: binaries, with parts of the names of tests.
MARKS = ["without_tx ::sqlite busy dropped killed releases twice lost", "silent_versions ::sqlite"]
LANE = ["lane_checks", *MARKS, "silent_commit ::sqlite", "rules ::sqlite", "worker_policies ::sqlite",
        "silent_session ::sqlite", "segments ::sqlite", "unknown_events ::sqlite", "silent_commit ::postgres"]
POSTGRES = ["rules r3_ r4_", "worker_policies ::postgres terminated by_its_code", "no_stall outlasts too_long",
            "silent_commit ::postgres", "lane_checks ::postgres", "silent_session", "held_horizon",
            "silent_commands ::postgres", "worker_running keeps_its_claim", "privileges revoked save_without",
            "faults_pgbouncer", "faults_load"]
TESTS = {
    "backend/marks.rs": MARKS,
    "backend/checkpoints.rs": [*LANE, "releases ::sqlite", "segments_operated", "silent_logs sqlite",
                               "silent_replay ::sqlite", "silent_commands ::sqlite"],
    "backend/rows.rs": [*LANE, "retention ::sqlite", "releases ::sqlite", "silent_replay ::sqlite", "store_robust",
                        "silent_commands ::sqlite", "admin ::sqlite"],
    "backend/postgres/checkpoints.rs": POSTGRES,
    "backend/sqlite/checkpoints.rs": ["worker_policies of_sqlite", *LANE],
    "worker/lane/admission.rs": LANE,
    "worker/lane/attempt.rs": LANE,
    "worker/lane/between_claims.rs": LANE,
    "worker/lane/mark.rs": LANE,
    "worker/lane/record.rs": LANE,
    "worker/lane/row_address.rs": POSTGRES,
    "worker/lane/saving.rs": [*LANE, "worker_policies voids_the_batch"],
    "worker/lane/segment.rs": ["held_horizon", "read_models segment", *LANE, "silent_commands ::sqlite"],
}

TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|r?\#*"(?:\\.|[^"\\])*"\#*|'(?:\\.|[^'\\])'|'\w+|::<[^;(){}]*?>(?=\()|\.\.=|=>|->|::|&&|\|\|"""
    r"""|<<=|>>=|[-+*/%&|^=!<>]=|\.\.|\d[\w.]*|\w+|\s+|.""",
    re.S,
)
LEVELS = ["= += -= *= /= %=", ".. ..=", "||", "&&", "== != < > <= >=", "|", "^", "&", "+ -", "* / %"]
LEVEL = {token: level for level, tokens in enumerate(LEVELS) for token in tokens.split()}
ENDS = {",", ";", ":", "=>", "->", "if", "in", "let", "match", "return", "else", "while", "|", "break"}
OPEN, CLOSE = set("([{"), set(")]}")


def tokens(source):
    """Where the tokens of Rust code are, without comments and white space."""
    found = [(one.start(), one.end(), one[0]) for one in TOKEN.finditer(source)]
    return [one for one in found if not one[2].isspace() and not one[2].startswith(("//", "/*"))]


def is_unary(before):
    return before in OPEN or before in ENDS or before in LEVEL or before == "!"


def end_of_operand(found, at, level):
    """Where the operand that follows a token ends: before an operator that binds no tighter than a level."""
    depth, last = 0, at
    for index in range(at + 1, len(found)):
        token = found[index][2]
        unary = is_unary(found[index - 1][2])
        ends = token in ENDS or token == "{" or (not unary and LEVEL.get(token, 99) <= level)
        if depth == 0 and (token in CLOSE or ends):
            break
        depth += (token in OPEN) - (token in CLOSE)
        last = index
    return found[last][1]


def start_of_operand(found, at, level):
    """Where the operand before a token starts."""
    depth, first = 0, at
    for index in range(at - 1, -1, -1):
        token = found[index][2]
        unary = is_unary(found[index - 1][2])
        ends = token in ENDS or token == "}" or (not unary and LEVEL.get(token, 99) < level)
        if depth == 0 and (token in OPEN or ends):
            break
        depth += (token in CLOSE) - (token in OPEN)
        first = index
    return found[first][0]


class Mutant:
    """One of those that cargo-mutants lists."""

    def __init__(self, number, listed, source):
        self.number, self.listed = number, listed
        self.path, self.genre, self.new = listed["file"], listed["genre"], listed["replacement"]
        self.file = self.path.removeprefix("consumer/src/")
        self.name = listed["name"].removeprefix("consumer/src/")
        self.function = (listed["function"] or {}).get("function_name", "").rpartition("::")[2]
        lines = [0]
        for line in source.splitlines(keepends=True):
            lines.append(lines[-1] + len(line))
        offset = lambda place: lines[place["line"] - 1] + place["column"] - 1
        self.start, self.end = (offset(listed["span"][side]) for side in ("start", "end"))

    def edit(self, source, found):
        """The code that is replaced, and what replaces it; at an empty span, an arm of a match gets a guard.

        Nothing in a chain of `let` conditions, where `||` does not compile.
        """
        start, end = self.start, self.end
        at = next(index for index, token in enumerate(found) if token[0] >= start)
        if self.genre == "BinaryOperator":
            level = LEVEL[source[start:end]]
            left, right = start_of_operand(found, at, level), end_of_operand(found, at, level)
            if re.search(r"(?:\bif|\bwhile|&&)\s+let\b[^;{}]*=\s*$", source[:left]) and self.new == "||":
                return None, None
            return (left, right), f"{source[left:start]} {self.new} {source[end:right]}"
        if self.genre == "UnaryOperator":
            right = end_of_operand(found, at, 90)
            return (start, right), source[end:right]
        if self.genre == "MatchArm":
            arrow = next(token[0] for token in found[at:] if token[2] == "=>")
            guard = re.search(r"\sif\s+(.*?)\s*$", source[start:arrow], re.S)
            return ((start + guard.start(1), start + guard.end(1)), "false") if guard else ((arrow, arrow), "")
        if self.genre == "StructField":
            first, last = at, at
            while found[first][2] != "{" or found[last][2] != "}":
                first -= found[first][2] != "{"
                last += found[last][2] != "}"
            while found[first - 1][2] == "::" or re.fullmatch(r"\w+", found[first - 1][2]):
                first -= 1
            left, right = found[first][0], found[last][1]
            return (left, right), source[left:start] + source[end:right]
        return (start, end), self.new


def listed(arguments):
    """The mutants of files."""
    files = [(file, functions.split(",") if functions else None) for file, _, functions in
             (one.partition(":") for one in arguments)]
    chosen = [argument for file, _ in files for argument in ("-f", f"consumer/src/{file}")]
    command = ["cargo", "mutants", "--list", "--json", *chosen]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    sources = {one["file"]: (ROOT / one["file"]).read_text() for one in found}
    all_mutants = [Mutant(number, one, sources[one["file"]]) for number, one in enumerate(found, 1)]
    functions = dict(files)
    return [one for one in all_mutants if not functions[one.file] or one.function in functions[one.file]]


def write(chosen):
    """Writes the worktree with mutants in it, and returns these."""
    edits = {}
    for path in {one.path for one in chosen}:
        source = (ROOT / path).read_text()
        found = tokens(source)
        for one in (one for one in chosen if one.path == path):
            span, code = one.edit(source, found)
            if span:
                edits.setdefault(path, {}).setdefault(span, []).append((one.number, code))
    copy(edits)
    written = {number for of_file in edits.values() for cases in of_file.values() for number, _ in cases}
    return [one for one in chosen if one.number in written]


def build(chosen, binaries):
    """Builds the tests of mutants. Returns those mutants that compile, and where the tests are."""
    while True:
        chosen = write(chosen)
        built = compiled(binaries, ["-p", "consumer-examples", "--features", FEATURES])
        messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
        if built.returncode == 0:
            programs = [one for one in messages if one.get("executable")]
            return chosen, {one["target"]["name"]: one["executable"] for one in programs}
        errors = [one["message"] for one in messages if one["reason"] == "compiler-message"]
        wrong = set()
        for error in (error for error in errors if error["level"] == "error"):
            for span in error["spans"]:
                source = (COPY / span["file_name"]).read_bytes()[: span["byte_start"] + 1]
                before = re.findall(rb"crate::mutants::on\((\d+)\)", source)
                if span["is_primary"] and before:
                    wrong.add(int(before[-1]))
        if not wrong & {one.number for one in chosen}:
            print(*(error["rendered"] for error in errors), file=sys.stderr)
            sys.exit("this does not compile, and no mutant seems to be the cause")
        chosen = [one for one in chosen if one.number not in wrong]


def failing(program, names, number):
    """The first test of a program, among those with names, that fails; `None` if none does."""
    environment = {"TEST_TIMEOUT": "20", **os.environ, "MUTANT": str(number), "CARGO_MANIFEST_DIR": str(COPY / "tests")}
    tests = subprocess.Popen(
        [program, *names], cwd=COPY / "tests", env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    timed_out = []

    def stop():
        timed_out.append(True)
        os.killpg(tests.pid, signal.SIGKILL)

    timer = threading.Timer(SECONDS, stop)
    timer.start()
    failed = None
    for line in tests.stdout:
        failed = re.match(r"test (\S+) (?:- should panic )?\.\.\. FAILED$", line)
        if failed:
            os.killpg(tests.pid, signal.SIGKILL)
            break
    timer.cancel()
    tests.wait()
    return failed[1] if failed else "timeout" if timed_out else "a crash" if tests.returncode else None


def run(mutant, programs):
    """The test that noticed, if one did."""
    for test in TESTS[mutant.file]:
        binary, _, names = test.partition(" ")
        failed = failing(programs[binary], names.split(), mutant.number)
        if failed:
            return f"`{binary}::{failed}`"
    return None


def main():
    arguments = [one for one in sys.argv[1:] if one != "--list" and not one.isdigit()]
    numbers = {int(one) for one in sys.argv[1:] if one.isdigit()}
    if not arguments or any(one.partition(":")[0] not in TESTS for one in arguments):
        sys.exit(__doc__)
    all_mutants = listed(arguments)
    if "--list" in sys.argv:
        for one in all_mutants:
            print(one.number, one.name, sep="\t")
        return
    files = sorted({one.file for one in all_mutants})
    binaries = sorted({test.split()[0] for file in files for test in TESTS[file]})
    viable, programs = build(all_mutants, binaries)
    unviable = Counter(one.file for one in all_mutants) - Counter(one.file for one in viable)
    chosen = [one for one in viable if not numbers or one.number in numbers]
    results = Counter()
    with ThreadPoolExecutor(JOBS) as pool:
        for one, caught in zip(chosen, pool.map(lambda one: run(one, programs), chosen)):
            result = "missed" if not caught else "timeouts" if "::timeout" in caught else "caught"
            results[one.file, result] += 1
            print(f"| {one.number} | `{one.name}` | {caught or '**missed**'} |", flush=True)
    print("\n| file | listed | unviable | run | caught | missed | timeouts |\n|---|---|---|---|---|---|---|")
    for file in files:
        counts = [sum(one.file == file for one in mutants) for mutants in (all_mutants, chosen)]
        counts.insert(1, unviable[file])
        print(f"| {file} |", *(f"{count} |" for count in counts),
              *(f"{results[file, result]} |" for result in ("caught", "missed", "timeouts")))
    sys.exit(1 if any(result == "missed" for _, result in results) else 0)


if __name__ == "__main__":
    main()
