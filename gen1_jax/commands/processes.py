"""The option `--processes`: a command that is one of several processes of a job."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from gen1_jax.errors import EXIT_TRY_AGAIN, UserError, exit_code


def add_processes_argument(parser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="run as one of the N processes of a job, each of which is started with this flag; "
        "launch/README.md says how (%(default)s)",
    )
    parser.add_argument(
        "--join-timeout",
        type=int,
        default=300,
        metavar="S",
        help="seconds to wait for the other processes (%(default)s)",
    )


def refuse_one_of_many(takes_processes: bool = True) -> None:
    """Raises UserError if several processes were started and each would run the whole job alone.

    Args:
      takes_processes: whether the command has `--processes`.
    """
    import jax

    # launch/local.py and SLURM set these variables. A host of a TPU slice finds the others itself.
    said = (os.environ.get(name, "") for name in ("GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"))
    started = next((int(count) for count in said if count.isdecimal()), 1)
    if (started := max(started, jax.process_count())) > 1:
        if takes_processes:
            way = f"add --processes {started}, by which they share the job, or start one process"
        else:
            way = "start one process"
        raise UserError(
            f"this command was started as {started} processes, and each would do the whole job by "
            f"itself; {way}"
        )


class Terminated(KeyboardInterrupt):
    """SIGTERM ended a command that goes on where it was when it is given again."""

    exit_code = EXIT_TRY_AGAIN


_last_resorts: list[threading.Timer] = []


def _terminate(number: int, frame) -> None:
    """Ends the command on SIGTERM, which the first process of a container would else ignore.

    Python drops an exception that comes in a callback, such as jax's at garbage collection; the
    process then ends a few seconds later.
    """
    _last_resorts.append(threading.Timer(5.0, os._exit, (Terminated.exit_code,)))
    _last_resorts[-1].daemon = True
    _last_resorts[-1].start()
    raise Terminated("stopped by SIGTERM; the same command goes on from here")


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Ends the block on SIGTERM; threads other than the main thread cannot handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        while _last_resorts:
            _last_resorts.pop().cancel()
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def joined(args) -> Iterator[None]:
    """Joins the other processes of the job; does nothing for a single process.

    A process that fails ends at once, with the exit code of the error. If it left
    the block normally, jax would wait five minutes for the other processes, which wait for this
    one. Whoever started the job sees the exit code and ends the others.
    """
    from gen1_jax.joining import join_processes

    for name in ("processes", "join_timeout"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}; 1 or more is accepted")
    goes_on = hasattr(args, "workdir")  # what is finished there is not done again
    if args.processes == 1:
        refuse_one_of_many()
        with _ending_on_sigterm() if goes_on else contextlib.nullcontext():
            yield
        return
    join_processes(args.processes, args.join_timeout)
    # jax takes SIGTERM as a notice of preemption, so the process would not end by it. Training
    # installs a handler of its own.
    signal.signal(signal.SIGTERM, _terminate if goes_on else signal.SIG_DFL)
    try:
        yield
    except Terminated as stopped:  # the others may wait for this process, or are ended as well
        print(f"gen1: {stopped}", file=sys.stderr, flush=True)
        os._exit(stopped.exit_code)
    except UserError as error:
        print(f"gen1: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(exit_code(error))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
