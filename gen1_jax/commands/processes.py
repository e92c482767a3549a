"""`--processes`: one command of a job that runs on several hosts."""


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


def join(args) -> None:
    """Joins the job's other processes; does nothing where there are none."""
    from gen1_jax.errors import UserError
    from gen1_jax.parallel import join_processes

    if args.processes < 1 or args.join_timeout < 1:
        raise UserError("--processes and --join-timeout: 1 or more is accepted")
    if args.processes > 1:
        join_processes(args.processes, args.join_timeout)
