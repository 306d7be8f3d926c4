"""Plays histories on both cores and says what they came to: `python -m tests.simulation.run --help`."""

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count

from tests.simulation.history import Outcome, Scenario, play

SQLITE_SHARE = 40
"""Every so many seeds, one runs on SQLite."""
TRACE_LINES = 80
"""How many of the last lines of a history that failed are shown at once."""
PROGRESS = 200
"""After how many histories it says how far it is."""


def scenario(seed: int) -> Scenario:
    """The kind of history that a seed gives."""
    return Scenario(seed=seed, sqlite=True, cycles=1) if seed % SQLITE_SHARE == 0 else Scenario(seed=seed)


def outcomes(first_seed: int, rotations: int, processes: int) -> Iterator[Outcome]:
    """Histories in the order of their seeds, until they have so many rotations or one fails."""
    done = 0
    with (
        tempfile.TemporaryDirectory(prefix="keyturn-simulation-") as folder,
        multiprocessing.get_context("spawn").Pool(processes, _begin, (folder,)) as pool,
    ):
        for outcome in pool.imap(play_seed, count(first_seed)):
            yield outcome
            done += outcome.rotations
            if done >= rotations or outcome.violation:
                return


def _begin(folder: str) -> None:
    # What a process leaves behind when it is stopped in the middle of a history goes with the folder.
    tempfile.tempdir = folder
    # Next to nothing of a history is garbage in cycles before its end.
    gc.set_threshold(100_000)


def play_seed(seed: int) -> Outcome:
    outcome = play(scenario(seed))
    if not outcome.violation:
        outcome.trace = ""
    return outcome


def summary(done: Sequence[Outcome], took: float) -> str:
    """What the histories came to, in lines."""
    rotations = sum(outcome.rotations for outcome in done)
    faults = sum((outcome.faults for outcome in done), Counter[str]())
    commands = sum((outcome.commands for outcome in done), Counter[str]())
    violations = [outcome for outcome in done if outcome.violation]
    slowest = max(done, key=lambda outcome: outcome.slowest_healing_polls)
    sqlite = sum(scenario(outcome.seed).sqlite for outcome in done)
    healing = f"{slowest.slowest_healing_polls:.1f} poll intervals"
    lines = [
        f"histories: {len(done)}, of which on SQLite: {sqlite}",
        f"rotations: {rotations}",
        f"ring versions: {sum(outcome.versions for outcome in done)}",
        f"tokens: {sum(outcome.tokens for outcome in done)}",
        f"documents fetched: {sum(outcome.fetches for outcome in done)}",
        f"verifications: {sum(outcome.verifications for outcome in done)}",
        f"commands of operators: {commands.total()}",
        *(f"  {command}: {number}" for command, number in sorted(commands.items())),
        f"faults injected: {faults.total()}",
        *(f"  {fault}: {number}" for fault, number in sorted(faults.items())),
        f"slowest healing: {healing} (seed {slowest.seed}: {slowest.slowest_healing} of virtual time)",
        f"rotations per second: {rotations / took:.1f} (in {timedelta(seconds=round(took))})",
        f"violations: {len(violations)}",
    ]
    return "\n".join(lines)


def report_violation(outcome: Outcome) -> str:
    lines = outcome.trace.splitlines()
    shown = "\n".join(lines[-TRACE_LINES:])
    return (
        f"{shown}\n\nseed {outcome.seed}: {outcome.violation}\n"
        f"replay it, with its whole trace, by: make simulate SEED={outcome.seed}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulates replicas, stores, operators and trouble in virtual time.")
    parser.add_argument("--seed", type=int, help="play this one history and print its trace")
    parser.add_argument("--rotations", type=int, default=20_000, help="play until there were so many (default: 20000)")
    parser.add_argument("--first-seed", type=int, default=1, help="where to begin (default: 1)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    if options.seed is not None:
        done = [play(scenario(options.seed))]
        say(done[0].trace)
    else:
        done = []
        for outcome in outcomes(options.first_seed, options.rotations, options.processes):
            done.append(outcome)
            if len(done) % PROGRESS == 0:
                say(f"… {len(done)} histories, {sum(each.rotations for each in done)} rotations")
            if outcome.violation:
                say(report_violation(outcome))
    say(summary(done, time.monotonic() - began))
    return 1 if done[-1].violation else 0


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its output is what it is for


if __name__ == "__main__":
    sys.exit(main())
