"""Joins the processes of one job, or says in one line why they did not come together."""

import os
import socket
import sys
import threading
from typing import Any

import jax

from gen1_jax.errors import EXIT_TRY_AGAIN, TryAgain, UserError, one_line


def join_processes(count: int, timeout: int = 300) -> None:
    """Joins the processes of one job, and checks their number; call it before any computation.

    The coordinator's address comes from GEN1_COORDINATOR (host:port) and this process's number from
    GEN1_PROCESS; `launch/local.py` sets both. Without them jax asks the cluster (TPU, SLURM, …).

    Args:
      count: the number of processes that the job must have.
      timeout: seconds to wait for the others.

    Raises:
      UserError: the variables are wrong, or the number of the processes is not `count`.
      TryAgain: this process could not join the others.
    """
    # jax's own timeout ends in a crash with a stack trace, so ours comes first.
    options: dict[str, Any] = {"initialization_timeout": timeout + 60}
    coordinator = os.environ.get("GEN1_COORDINATOR", "")
    if coordinator:
        _check_address(coordinator)
        number = os.environ.get("GEN1_PROCESS", "")
        if not number.isdecimal() or int(number) >= count:
            raise UserError(
                f"GEN1_PROCESS is {number!r}; accepted: the number of this process, 0 to "
                f"{count - 1} (--processes {count})"
            )
        options |= {"coordinator_address": coordinator, "num_processes": count}
        options |= {"process_id": int(number)}

    def give_up() -> None:
        late = f"gen1: the {count} processes of the job did not come together in {timeout} s"
        print(f"{late}; {_why_late(coordinator)}", file=sys.stderr, flush=True)
        os._exit(EXIT_TRY_AGAIN)  # the thread that waits cannot be interrupted

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        jax.distributed.initialize(**options)
    except Exception as error:  # each kind of cluster raises its own kinds
        if not coordinator and "should be defined" in str(error):
            raise UserError(
                f"--processes {count}: nothing says where the other processes are. On a cluster "
                "that jax knows (SLURM, TPU, …) it finds them; elsewhere set, for each process, "
                f"GEN1_COORDINATOR=HOST:PORT of the first one and GEN1_PROCESS=0 to {count - 1}. "
                "launch/local.py sets both on one machine"
            ) from error
        raise TryAgain(
            f"this process could not join the {count} of the job: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        timer.cancel()
    if jax.process_count() != count:
        raise UserError(f"{jax.process_count()} processes came together; --processes says {count}")


def _check_address(coordinator: str) -> None:
    """Raises UserError unless the text is HOST:PORT."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"GEN1_COORDINATOR is {coordinator!r}; accepted: HOST:PORT of the first process, such "
            "as 10.0.0.1:1234"
        )


def _why_late(coordinator: str) -> str:
    """Returns what to look at when processes do not come together."""
    if not coordinator:
        return "are all of them started, and can they reach each other?"
    host, _, port = coordinator.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except socket.gaierror:
        return f"there is no host {host} (GEN1_COORDINATOR is {coordinator})"
    except OSError as error:
        return (
            f"nothing answers at GEN1_COORDINATOR, {coordinator} ({one_line(error)}): is process 0 "
            "started there, and is the port open?"
        )
    return (
        f"GEN1_COORDINATOR, {coordinator}, answers: are all processes started, each with its own "
        "GEN1_PROCESS?"
    )
