"""The option `--mesh`: the devices over which an edit or an evaluation is sharded."""

import math

from gen1_jax.errors import UserError

AXES = ("data", "frames")


def add_mesh_argument(parser) -> None:
    parser.add_argument(
        "--mesh",
        nargs="+",
        metavar="AXIS=N",
        help="use several devices: data=N shards the clips, frames=N the frames of each clip",
    )


def make_mesh_of(args):
    """Returns the mesh that `--mesh` asks for, of the first devices, or None without the option.

    Raises:
      UserError: an axis is unknown, or there are not so many devices.
    """
    if not args.mesh:
        return None
    import jax

    from gen1_jax.distributed import make_mesh

    sizes = {"data": 1}
    for entry in args.mesh:
        axis, _, size = entry.partition("=")
        if axis not in AXES or not size.isdecimal() or not int(size):
            raise UserError(
                f"--mesh {entry}; accepted: data=N or frames=N or both, each N a number of devices"
            )
        sizes[axis] = int(size)
    needed, devices = math.prod(sizes.values()), jax.devices()
    if needed > len(devices):
        raise UserError(
            f"--mesh {' '.join(args.mesh)} needs {needed} devices; jax sees {len(devices)} "
            f"({devices[0].platform})"
        )
    return make_mesh(**sizes, devices=devices[:needed])
