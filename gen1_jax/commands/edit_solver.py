"""The flag that says how the steps of sampling are taken."""


def add_solver_argument(parser) -> None:
    parser.add_argument(
        "--solver",
        choices=("ddim", "dpm++", "unipc"),
        default="ddim",
        help="how steps are taken: dpm++ and unipc are of second order and need fewer "
        "(%(default)s)",
    )
