#!/usr/bin/env python3
"""Changes the code that decides about lost and repeated events, and shows which tests notice.

Usage: tests/scripts/mutants.py [--list] [--check] [--faults] [NUMBER...]

Runs the mutants of these numbers, or all, and writes a table. All of them are built at once, into a copy
of the worktree in `target/mutants`, where the environment variable MUTANT chooses one: a mutant costs
no build. The list is `tests/scripts/mutants.txt`.

  --list   lists the mutants
  --check  checks that the code of every mutant is still there, once, and runs nothing
  --faults puts the faults of `tests/scripts/faults.txt` back, which earlier versions had, and shows the shortest
           history that finds each, of so many random ones as `HISTORIES` says

Exits with 1 if a mutant survives that a test is listed for, and with 2 if its code is not there.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "target" / "mutants"
SECONDS = int(os.environ.get("MUTANT_SECONDS", "300"))

# Where the text of a statement passes by before it is used: file, code, and the code that changes it.
RENDERED = [
    ("backend/sql.rs", "fill_in(template, common)", "fill_in(&crate::mutants::sql(template), common)"),
    ("backend/schema.rs", "fill_in(sql, |key|", "fill_in(&crate::mutants::sql(sql), |key|"),
    ("backend/postgres/connect.rs", ".fold(statement.to_owned(),",
     ".fold(crate::mutants::sql(statement).into_owned(),"),
    ("backend/postgres/checkpoints.rs", "let session = SESSION.replace",
     "let session = crate::mutants::sql(SESSION).replace"),
    ("backend/postgres/checkpoints.rs", "{set_path}{GUARD}\")", "{set_path}{}\", crate::mutants::sql(GUARD))"),
]
MODULE = ("lib.rs", "mod backend;",
          "mod backend;\n#[allow(clippy::all, missing_docs, unreachable_pub)]\nmod mutants;")

SWITCH = """
use std::borrow::Cow;
use std::sync::OnceLock;

static CHOSEN: OnceLock<u32> = OnceLock::new();

pub fn on(number: u32) -> bool {
    let chosen = || std::env::var("MUTANT").ok()?.parse().ok();
    *CHOSEN.get_or_init(|| chosen().unwrap_or(0)) == number
}

pub fn sql(text: &str) -> Cow<'_, str> {
    let chosen = STATEMENTS.iter().filter(|(number, _, _)| on(*number));
    let mutate = |text: Cow<'_, str>, (_, from, to): &(u32, &str, &str)| text.replace(from, to).into();
    chosen.fold(Cow::Borrowed(text), mutate).into_owned().into()
}

static STATEMENTS: &[(u32, &str, &str)] = &[
"""


class Mutant:
    """One block of the list."""

    def __init__(self, number, block):
        head, self.what, changes = block.split("\n", 2)
        self.number = number
        is_sql, self.file, tests = re.fullmatch(r"(SQL )?(\S+):(.*)", head).groups()
        self.is_sql, self.tests = bool(is_sql), tests.split()
        self.path = f"consumer/src/{self.file}"
        found = re.findall(r"^- (.*?)\n\+ ?(.*?)\n*(?=^[-=] |\Z)", changes, re.S | re.M)
        self.changes = [self.split(*change) for change in found]
        why = re.search(r"^= (.*)", changes, re.M)
        self.why = why and why[1]

    @staticmethod
    def split(old, new):
        """What comes before the replaced code, that code, what comes after it, and what replaces it."""
        before, marked, rest = old.partition("[[")
        if not marked:
            return "", old, "", new
        code, _, after = rest.partition("]]")
        return before, code, after, new


def mutants(name="mutants.txt"):
    text = (ROOT / "tests/scripts" / name).read_text()
    blocks = re.split(r"^== ", text, flags=re.M)[1:]
    titles = [block.split("\n")[1] for block in blocks]
    # Blocks of one title are one mutant, in several files.
    numbers = {title: number for number, title in enumerate(dict.fromkeys(titles), 1)}
    return [Mutant(numbers[title], block) for title, block in zip(titles, blocks)]


def missing(mutant):
    """The code that is not in the file exactly once."""
    source = (ROOT / mutant.path).read_text()
    codes = ["".join(change[:3]) for change in mutant.changes]
    return [code for code in codes if source.count(code) != 1]


def with_mutants(source, edits):
    """The source with all edits in it: `{(start, end): [(number, code)]}`, of which some contain others.

    Where nothing is replaced, an arm of a `match` gets a guard that is false for the mutant.
    """

    def render(start, end, spans):
        written, at = [], start
        while spans:
            first, last = spans[0]
            inner = [span for span in spans[1:] if span[0] < last]
            assert all(span[1] <= last for span in inner), source[first:last]
            spans = spans[1 + len(inner) :]
            written.append(source[at:first])
            chosen = edits[(first, last)]
            if first == last:
                guards = [f"!crate::mutants::on({number})" for number, _ in chosen]
                written.append(f"if {' && '.join(guards)} ")
                at = last
                continue
            cases = [f"if crate::mutants::on({number}) {{ {code} }} else " for number, code in chosen]
            code = "".join(cases) + "{ " + render(first, last, inner) + " }"
            written.append(code if source[first:last].endswith(";") else f"({code})")
            at = last
        return "".join(written) + source[at:end]

    return render(0, len(source), sorted(edits, key=lambda span: (span[0], -span[1])))


def write(path, text):
    """Writes a file unless it is the same, so that it need not be built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != text:
        path.write_bytes(text)


def copy(edits, statements=(), hooks=(MODULE,)):
    """Writes the worktree with mutants in it: edits by path as in `with_mutants`, and statements of SQL."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in names.split("\0") if (ROOT / name).is_file()]
    files = {name: (ROOT / name).read_bytes() for name in names}
    for path, of_file in edits.items():
        files[path] = with_mutants(files[path].decode(), of_file).encode()
    for file, code, hook in hooks:
        path = f"consumer/src/{file}"
        assert files[path].count(code.encode()) == 1, (file, code)
        files[path] = files[path].replace(code.encode(), hook.encode())
    files["consumer/src/mutants.rs"] = (SWITCH + "".join(statements) + "];\n").encode()
    for name, text in files.items():
        write(COPY / name, text)


def copy_listed(all_mutants):
    """Writes the worktree with all mutants of the list in it."""
    edits, statements = {}, []
    for mutant in all_mutants:
        source = (ROOT / mutant.path).read_text()
        for before, code, after, new in mutant.changes:
            if mutant.is_sql:
                statements.append(f'({mutant.number}, r####"{code}"####, r####"{new}"####),\n')
                continue
            start = source.index(before + code + after) + len(before)
            of_file = edits.setdefault(mutant.path, {})
            of_file.setdefault((start, start + len(code)), []).append((mutant.number, new))
    copy(edits, statements, [*RENDERED, MODULE])


def compiled(binaries, options=()):
    """Compiles test binaries in the copy, and returns what cargo says, as JSON."""
    chosen = [argument for binary in binaries for argument in ("--test", binary)]
    command = ["cargo", "test", "-p", "consumer-tests", "--no-run", "--message-format=json", *options, *chosen]
    target = dict(os.environ, CARGO_TARGET_DIR=os.environ.get("CARGO_TARGET_DIR", COPY / "target"))
    return subprocess.run(command, cwd=COPY, env=target, stdout=subprocess.PIPE, text=True)


def build(binaries):
    """Builds test binaries, and returns where they are."""
    built = compiled(binaries)
    if built.returncode:
        sys.exit("the mutants do not compile")
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    programs = [one for one in messages if one.get("executable")]
    return {one["target"]["name"]: one["executable"] for one in programs}


def ran(command, environment):
    """What tests print, and their exit code; `None` if they take too long."""
    tests = subprocess.Popen(
        command, cwd=COPY / "tests", env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
        output, _ = tests.communicate(timeout=SECONDS)
        return output, tests.returncode
    except subprocess.TimeoutExpired:
        os.killpg(tests.pid, signal.SIGKILL)
        output, _ = tests.communicate()
        return output, None


def failing(program, name, number):
    """The first test of a program, among those with a name, that fails; `None` if none does."""
    environment = dict(os.environ, MUTANT=str(number), CARGO_MANIFEST_DIR=str(COPY / "tests"))
    output, code = ran([program, *([name] if name else [])], environment)
    if code is None:
        return "timeout"
    failed = re.search(r"^test (\S+) \.\.\. FAILED$", output, re.M)
    return failed[1] if failed else "a crash" if code else None


def run(mutant, programs):
    """The test that noticed, if one did."""
    for test in mutant.tests:
        binary, _, name = test.partition("::")
        failed = failing(programs[binary], name, mutant.number)
        if failed:
            return f"`{binary}::{failed}`"
    return None


def history(program, number):
    """The seed of a random history that finds a fault, what it finds, and the steps that are left of it."""
    # A stuck history is given up soon, so nothing else may take as long.
    usual = dict(HISTORIES="20000", HISTORY_TIMEOUT="10", HISTORY_WITHOUT="hang")
    environment = usual | os.environ | dict(
        MUTANT=str(number), HISTORY_SEED="0", HISTORY_FAILURES="1", CARGO_MANIFEST_DIR=str(COPY / "tests"),
    )
    played, _ = ran([program, "random", "--nocapture"], environment)
    found = re.search(r"^HISTORY_SEED=(\d+) still fails .*?\((.*)\):\n((?:    .*\n)+)", played, re.M)
    # Until it is shrunk, or for longer than there is time for.
    found = found or re.search(r"^HISTORY_SEED=(\d+): (.*)\n()", played, re.M)
    return found and found.groups()


def find_faults(chosen, programs):
    """Shows how random histories find faults, and returns whether they find them all."""
    found_all = True
    for one in chosen:
        print(f"\n## {one.what[0].upper()}{one.what[1:]}", flush=True)
        for binary in one.tests:
            found = history(programs[binary], one.number)
            found_all &= bool(found)
            if found:
                seed, wrong, steps = found
                print(f"\n`{binary}`, seed {seed}: {wrong}\n\n{steps}", end="", flush=True)
            else:
                print(f"\n`{binary}`: **not found**", flush=True)
    return found_all


def main():
    arguments = sys.argv[1:]
    if any(not re.fullmatch(r"--list|--check|--faults|\d+", one) for one in arguments):
        sys.exit(__doc__)
    faults = mutants("faults.txt")
    listed = faults if "--faults" in arguments else mutants()
    numbers = [int(one) for one in arguments if one.isdigit()]
    chosen = [one for one in listed if not numbers or one.number in numbers]
    if "--list" in arguments:
        for one in chosen:
            print(one.number, one.file, one.what, " ".join(one.tests) or one.why, sep="\t")
        return
    checked = listed if listed is faults else listed + faults
    lost = [(one, code) for one in checked for code in missing(one)]
    for one, code in lost:
        print(f"{one.number} ({one.what}): not there exactly once: {code}", file=sys.stderr)
    if lost:
        sys.exit(2)
    if "--check" in arguments:
        return
    chosen = list({one.number: one for one in chosen if one.tests}.values())
    copy_listed(listed)
    programs = build(sorted({test.partition("::")[0] for one in chosen for test in one.tests}))
    if listed is faults:
        sys.exit(0 if find_faults(chosen, programs) else 1)
    print("| number | file | mutant | caught by |\n|---|---|---|---|")
    survived = False
    for one in chosen:
        caught = run(one, programs)
        survived |= not caught
        print(f"| {one.number} | {one.file} | {one.what} | {caught or '**survived**'} |", flush=True)
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
