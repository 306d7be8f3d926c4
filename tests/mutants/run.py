"""Plants each mutant in a copy of the code and shows which test catches it: `python -m tests.mutants.run [WORDS]`.

With words, only the mutants whose names contain them. A mutant is caught when a test fails: one that cannot be
imported, or that only raises what broken code raises, is not. The exit code is 0 when all are caught.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("server", "client", "tests", "pyproject.toml")
PACKAGE = Path("server/keyturn_server")
TIMEOUT = 120.0
"""Seconds for the test of one mutant. One that makes it hang is not caught: nobody would see why."""
WIDTH = 84

_TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
_BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "AttributeError", "SyntaxError")
_FAILED = 1
"""What pytest exits with when tests have failed; an error of collection is another code."""
_ELSEWHERE = 70

# What is tested must be the copy, and neither the installed package nor the working tree.
_PYTEST = f"""
import sys
from importlib.util import find_spec
from pathlib import Path
import pytest
copy = Path(sys.argv[1])
for package in ("keyturn", "keyturn_server"):
    if not Path(find_spec(package).origin).is_relative_to(copy):
        print(package, "would be imported from", find_spec(package).origin, "and not from", copy, file=sys.stderr)
        sys.exit({_ELSEWHERE})
sys.exit(pytest.main(sys.argv[2:]))
"""


class MisplantedError(Exception):
    """A mutant does not fit the code any more."""


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    test: str
    """The test that failed; empty: none did."""
    why: str = ""
    """Why it does not count as caught."""

    def __str__(self) -> str:
        outcome = f"caught    {self.mutant.name}" if self.test else f"SURVIVED  {self.mutant.name}"
        return f"{outcome:{WIDTH}} {f'by {self.test}' if self.test else self.why}"


def copy_code(target: Path, source: Path = ROOT) -> Path:
    """A copy of all that the tests need, with the times of the files, so that their bytecode goes on to count."""
    for name in COPIED:
        if (source / name).is_dir():
            # Not the bytecode that another process is writing: it is about to be renamed.
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    return target.resolve()


def planted(mutant: Mutant, code: Path = ROOT) -> str:
    """Its file with the mutant in it. Raises `MisplantedError` unless its place is found exactly once."""
    text = (code / PACKAGE / mutant.file).read_text("utf-8")
    if (found := text.count(mutant.old)) != 1:
        raise MisplantedError(f"{mutant.name}: its place occurs {found} times in {mutant.file}: change tests/mutants")
    return text.replace(mutant.old, mutant.new)


def plant(mutant: Mutant, copy: Path) -> None:
    """Puts the mutant into the copy."""
    path = copy / PACKAGE / mutant.file
    text = planted(mutant, copy)
    # The bytecode of before could count for the mutant, if both were written in one second and have one size.
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    path.write_text(text, "utf-8")


def run_tests(copy: Path, *arguments: str, write_bytecode: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs pytest in a copy, on the code of the copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environment["PYTHONPATH"] = os.pathsep.join(str(copy / folder) for folder in ("server", "client", "."))
    if not write_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # Of all plugins only the one that the tests need: loading the others takes longer than most of these tests.
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ("-q", "--tb=short", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", f"--rootdir={copy}")
    return subprocess.run(
        [sys.executable, "-c", _PYTEST, str(copy), *options, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


def find_tests(names: Collection[str], copy: Path = ROOT) -> list[str]:
    """Where these tests stand, for pytest. Raises `MisplantedError` unless each is found exactly once."""
    found = [
        (match[1], f"{path.relative_to(copy)}::{match[1]}")
        for path in sorted((copy / "tests").rglob("test_*.py"))
        for match in _TEST.finditer(path.read_text("utf-8"))
        if match[1] in names
    ]
    for name in names:
        if (places := sum(name == each for each, _ in found)) != 1:
            raise MisplantedError(f"{name}: {places} tests have this name: change tests/mutants")
    return [place for _, place in found]


def check_sound(copy: Path, mutants: Sequence[Mutant]) -> None:
    """Exits with what pytest says unless all that must catch mutants is green without any."""
    done = run_tests(copy, *find_tests({mutant.caught_by for mutant in mutants}, copy), write_bytecode=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nThe tests fail without any mutant; see above.")


def judge(mutant: Mutant, sound: Path = ROOT) -> Verdict:
    """Runs the test of one mutant in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="keyturn-mutant-") as folder:
        copy = copy_code(Path(folder) / "code", sound)
        plant(mutant, copy)
        report = Path(folder) / "report.xml"
        try:
            done = run_tests(copy, "-x", f"--junitxml={report}", *find_tests([mutant.caught_by], copy))
        except subprocess.TimeoutExpired:
            return Verdict(mutant, "", f"its test hangs for {TIMEOUT:g} s")
        if done.returncode == 0:
            return Verdict(mutant, "", "no test fails")
        if done.returncode != _FAILED:
            return Verdict(mutant, "", f"pytest exits with {done.returncode}:\n{done.stdout}{done.stderr}")
        return _first_failure(mutant, report)


def _first_failure(mutant: Mutant, report: Path) -> Verdict:
    for case in ET.parse(report).iter("testcase"):
        for failure in case.iter("failure"):
            why = failure.get("message", "").splitlines()[0]
            if why.split(":")[0].rpartition(".")[2] in _BROKEN:
                return Verdict(mutant, "", f"it is broken, not wrong: {why}")
            return Verdict(mutant, case.get("name", "").partition("[")[0])
    return Verdict(mutant, "", "a fixture fails, and no test")


def run(mutants: Sequence[Mutant], jobs: int = 2) -> int:
    """Judges mutants, tells each verdict in their order, and gives the exit code."""
    if not mutants:
        sys.exit("no mutant has such a name")
    began = time.monotonic()
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="keyturn-sound-") as folder, ThreadPoolExecutor(jobs) as pool:
        sound = copy_code(Path(folder) / "code")
        check_sound(sound, mutants)
        for verdict in pool.map(judge, mutants, repeat(sound)):
            print(verdict, flush=True)  # noqa: T201 - a command's answer
            survivors += not verdict.test
    outcome = f"{survivors} survived" if survivors else "all caught"
    print(f"{len(mutants)} mutants, {outcome}, {time.monotonic() - began:.0f} s")  # noqa: T201
    return 1 if survivors else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only the mutants whose names contain these words")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (%(default)s)")
    options = parser.parse_args()
    words = " ".join(options.words)
    try:
        return run([mutant for mutant in MUTANTS if words in mutant.name], options.jobs)
    except MisplantedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(main())
