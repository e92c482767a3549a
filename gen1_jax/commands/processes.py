"""The option `--processes`: a command that is one of several processes of a job."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


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

    from gen1_jax.errors import UserError

    # launch/local.py and SLURM set these variables. A host of a TPU slice finds the others itself.
    said = (os.environ.get(name, "") for name in ("GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"))
    started = next((int(count) for count in said if count.isdecimal()), 1)
    if (started := max(started, jax.process_count())) > 1:
        if takes_processes:
            way = f"add --processes {started}, by which they share the job, or start one process"
        else:
            way = f"start one process, or train part by part: gen1 train --processes {started} …"
        raise UserError(
            f"this command was started as {started} processes, and each would do the whole job by "
            f"itself; {way}"
        )


@contextmanager
def joined(args) -> Iterator[None]:
    """Joins the other processes of the job; does nothing for a single process.

    A process that fails ends at once, with the exit code of the error. If it left
    the block normally, jax would wait five minutes for the other processes, which wait for this
    one. Whoever started the job sees the exit code and ends the others.
    """
    from gen1_jax.errors import UserError, exit_code
    from gen1_jax.joining import join_processes

    for name in ("processes", "join_timeout"):
        if (value := getattr(args, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}; 1 or more is accepted")
    if args.processes == 1:
        refuse_one_of_many()
        yield
        return
    join_processes(args.processes, args.join_timeout)
    # jax takes SIGTERM as a notice of preemption, so the process would not end by it. Training
    # installs a handler of its own.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except UserError as error:
        print(f"gen1: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(exit_code(error))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
