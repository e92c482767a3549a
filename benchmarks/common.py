"""What the benchmarks share: their command line and last line, running `gen1`, taking turns.

Benchmarks import it before any other module that is not Python's own, so that a missing module ends
in one line; `ruff check --fix` keeps that order.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GEN1 = [sys.executable, "-m", "gen1_jax"]


def _show_error(kind, error, trace) -> None:
    """Ends a benchmark that was started outside the project's environment in one line."""
    if issubclass(kind, ModuleNotFoundError):
        print(
            f"{error}; run `make install-dev` once, and `. .venv/bin/activate` in every new shell",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_error


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Returns a parser whose help is the docstring of a benchmark."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_figures(figures: Mapping[str, Any]) -> None:
    """Prints all figures as one JSON object, which is the last line of every benchmark."""
    print(json.dumps(figures))


def run_command(
    command: list[str], environment: Mapping[str, str] | None = None, show: bool = False
) -> str:
    """Runs a command in the clone's root and returns its standard output.

    Args:
      command: the program and its arguments.
      environment: variables that replace this process's; None keeps them.
      show: whether the command's errors and progress are shown as they come.

    Raises:
      SystemExit: the command failed; it says how.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}"
            f"{(done.stderr or '')[-2000:]}"
        )
    return done.stdout


def count_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def peak_memory() -> float:
    """Returns the largest memory that this process has had, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def time_turns(
    steps: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[tuple[float, float]]]:
    """Times steps that run in turns, so that what else the machine does is shared among them.

    Args:
      steps: name → a function that returns when its work is done.
      repeats: number of turns of each.

    Returns:
      Name → for each turn the elapsed time and the processor time of all threads, in milliseconds.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step()
            elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            times[name].append((1e3 * elapsed, 1e3 * cpu))
    return times
