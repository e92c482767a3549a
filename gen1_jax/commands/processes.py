"""`--processes`: one command of a job that runs on several hosts."""

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
        help="this is one of N processes of a job; see launch/ (%(default)s: alone)",
    )
    parser.add_argument(
        "--join-timeout",
        type=int,
        default=300,
        metavar="S",
        help="seconds to wait for the others (%(default)s)",
    )


def refuse_one_of_many() -> None:
    """Raises UserError where several processes were started, each of which would run alone."""
    import jax

    from gen1_jax.errors import UserError

    said = (os.environ.get(name, "") for name in ("GEN1_PROCESSES", "SLURM_STEP_NUM_TASKS"))
    started = next((int(count) for count in said if count.isdecimal()), 1)
    # A host of a TPU slice sees the others without being told.
    if (started := max(started, jax.process_count())) > 1:
        raise UserError(
            f"this is one of {started} processes, and would run alone; accepted: a command with "
            f"--processes {started}, or one process"
        )


@contextmanager
def joined(args) -> Iterator[None]:
    """Joins the job's other processes; does nothing where there are none.

    One that fails ends at once. As it left by itself jax would have it wait five minutes for the
    others, and they wait for it; so whoever started them sees it, and ends them.
    """
    from gen1_jax.distributed import join_processes
    from gen1_jax.errors import UserError

    if args.processes < 1 or args.join_timeout < 1:
        raise UserError("--processes and --join-timeout: 1 or more is accepted")
    if args.processes == 1:
        refuse_one_of_many()
        yield
        return
    join_processes(args.processes, args.join_timeout)
    # jax takes SIGTERM for a notice, which nothing here reads: nothing would end.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    except UserError as error:
        print(f"gen1: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(2)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
