"""The incidents that must not be repeated here, and what counts as catching a mutant.

Only these are planted here; `python -m tests.mutants.run` plants all.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.mutants import MUTANTS, Mutant
from tests.mutants.run import MisplantedError, copy_code, find_tests, judge, planted, run, run_tests

INCIDENTS = (
    "new key signs at once",
    "token outlives publication",
    "three replicas, three keys",
    "empty update",
    "read that creates",
    "retain ignored",
    "failed decrypt mints",
    "empty store mints",
    "key count grows with restarts",
    "W without E",
    "slow clock falls back to an old key",
    "expiry that passes",
)

HARMLESS = Mutant(
    name="harmless",
    file="domain/lifecycle.py",
    old="    current = signer(ring, now)\n    return (\n",
    new="    current = signer(ring, now)\n    return bool(\n",
    caught_by="test_a_rotation_is_overdue_once_the_signer_has_signed_for_longer_than_a_period",
)
"""Changes nothing that matters."""


@pytest.mark.parametrize("incident", INCIDENTS)
def test_an_incident_that_is_repeated_is_caught(incident: str) -> None:
    mutants = [mutant for mutant in MUTANTS if mutant.name.startswith(incident)]

    assert mutants
    assert [judge(mutant).test for mutant in mutants] == [mutant.caught_by for mutant in mutants]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutants_place_and_its_test_are_found_exactly_once(mutant: Mutant) -> None:
    compile(planted(mutant), mutant.file, "exec")
    find_tests([mutant.caught_by])


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_no_mutant_uses_a_name_that_is_not_there(tmp_path: Path) -> None:
    for number, mutant in enumerate(MUTANTS):
        (tmp_path / f"{number:02} {mutant.name[:40]}.py").write_text(planted(mutant))

    ruff = Path(sys.executable).parent / "ruff"
    command = ["check", "--isolated", "--no-cache", "--select", "E9,F821,F823", str(tmp_path)]
    done = subprocess.run([ruff, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_mutant_that_changes_nothing_survives_and_the_run_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([HARMLESS]) == 1

    verdict, total = capsys.readouterr().out.splitlines()
    assert verdict.split() == ["SURVIVED", "harmless", "no", "test", "fails"]
    assert total.startswith("1 mutants, 1 survived, ")


def test_a_run_without_any_mutant_fails() -> None:
    with pytest.raises(SystemExit, match="no mutant"):
        run([])


@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("    current = signer(ring, now)\n    return ((\n", "pytest exits with "),
        ("    from keyturn_server import nothing\n    return (\n", "it is broken, not wrong: ImportError"),
        ("    return (\n", "it is broken, not wrong: NameError"),
    ],
    ids=["no Python", "no import", "no name"],
)
def test_a_mutant_that_is_broken_and_not_wrong_is_not_caught(new: str, why: str) -> None:
    verdict = judge(replace(HARMLESS, new=new))

    assert verdict.test == ""
    assert verdict.why.startswith(why)


@pytest.mark.parametrize("old", ["ring", "what has been changed since"], ids=["many times", "never"])
def test_a_mutant_whose_place_is_not_found_exactly_once_stops_the_run(old: str) -> None:
    with pytest.raises(MisplantedError, match=r"harmless: its place occurs \d+ times in domain/lifecycle.py"):
        judge(replace(HARMLESS, old=old))


def test_a_mutant_whose_test_was_renamed_stops_the_run() -> None:
    with pytest.raises(MisplantedError, match="test_of_old: 0 tests have this name"):
        judge(replace(HARMLESS, caught_by="test_of_old"))


def test_what_is_tested_is_the_copy_and_never_the_installed_package(tmp_path: Path) -> None:
    copy = copy_code(tmp_path / "code")
    (copy / "server").rename(tmp_path / "elsewhere")

    done = run_tests(copy, *find_tests([HARMLESS.caught_by]))

    assert "keyturn_server would be imported from" in done.stderr
    assert done.returncode not in {0, 1}
