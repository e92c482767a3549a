"""`--mesh`: over which devices an edit or an evaluation is spread."""

from gen1_jax.errors import UserError

AXES = ("data", "frames")


def add_mesh_argument(parser) -> None:
    parser.add_argument(
        "--mesh",
        nargs="+",
        metavar="AXIS=N",
        help="spread over several devices: data=N, clips; frames=N, the frames of each clip",
    )


def make_mesh_of(args):
    """The mesh that `--mesh` asks for; None without it.

    Raises:
      UserError: no such axis, or not so many devices.
    """
    if not args.mesh:
        return None
    from gen1_jax.distributed import make_mesh

    sizes = {"data": 1}
    for entry in args.mesh:
        axis, _, size = entry.partition("=")
        if axis not in AXES or not size.isdecimal() or not int(size):
            raise UserError(f"--mesh {entry}: data=N and frames=N are accepted, N devices each")
        sizes[axis] = int(size)
    return make_mesh(**sizes)
