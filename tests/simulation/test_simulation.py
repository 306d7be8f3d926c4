"""What the simulator promises of itself, and a share of what it plays in `make simulate`."""

import os
import subprocess
import sys

import pytest

from keyturn_server.domain import key_plans, lifecycle
from tests.simulation.history import Scenario, play
from tests.simulation.run import SQLITE_SHARE, main, scenario

SEED = 4


@pytest.mark.parametrize("seed", range(1, 7))
def test_no_history_breaks_an_invariant(seed: int) -> None:
    outcome = play(scenario(seed))

    assert outcome.violation == "", outcome.trace
    assert outcome.rotations > 0
    assert outcome.verifications > outcome.tokens > 0
    assert outcome.faults.total() > 0


def test_a_history_on_sqlite_breaks_no_invariant() -> None:
    assert scenario(SQLITE_SHARE).sqlite

    outcome = play(scenario(SQLITE_SHARE))

    assert outcome.violation == "", outcome.trace
    assert outcome.rotations > 0


def test_every_token_of_real_keys_verifies_with_pyjwt() -> None:
    outcome = play(Scenario(seed=5, real_keys=True, cycles=1))

    assert outcome.violation == "", outcome.trace
    assert outcome.rotations > 0


def test_a_thousand_restarts_make_no_key_and_no_document_larger() -> None:
    """The oracle compares every document with what its policy implies."""
    outcome = play(Scenario(seed=6, restarts=1200, cycles=1, operators=False))

    assert outcome.violation == "", outcome.trace
    assert outcome.faults["process killed"] >= 1000
    assert outcome.keys == outcome.rotations + 2


def test_one_seed_gives_one_history_byte_for_byte() -> None:
    program = (
        "from tests.simulation.history import Scenario, play; "
        f"print(play(Scenario(seed={SEED}, cycles=1)).trace, end='')"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": "1"}, capture_output=True, check=True
    )

    first, second = (play(Scenario(seed=SEED, cycles=1)).trace.encode() for _ in range(2))

    assert first == second == elsewhere.stdout


def test_different_seeds_give_different_histories() -> None:
    assert play(Scenario(seed=1, cycles=0)).trace != play(Scenario(seed=2, cycles=0)).trace


def test_a_new_key_that_signs_at_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "known_at", lambda _ring, published_at: published_at)
    monkeypatch.setattr(key_plans, "known_at", lambda _ring, published_at: published_at)

    violations = [play(scenario(seed)).violation for seed in (1, 2, 3)]

    assert any("invariant 1" in violation or "invariant 2" in violation for violation in violations)


def test_a_replayed_history_prints_its_trace_and_what_it_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1"]) == 0

    printed = capsys.readouterr().out
    assert play(scenario(1)).trace in printed
    assert "violations: 0" in printed
    assert "rotations per second" in printed
