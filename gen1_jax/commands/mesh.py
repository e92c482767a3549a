"""The options `--mesh` and `--dtype` of every command that runs models: devices and number type."""

import math

from gen1_jax.errors import UserError

AXES = ("data", "frames")
DTYPES = ("float32", "bfloat16", "float16")


def add_device_arguments(parser, mesh: str = "", dtype: str = "float32") -> None:
    """Adds `--mesh` and `--dtype`.

    Args:
      parser: the command's.
      mesh: help for `--mesh`; by default that of a command that edits clips.
      dtype: the type without the option, in words.
    """
    parser.add_argument(
        "--mesh",
        nargs="+",
        metavar="AXIS=N",
        help=mesh
        or "use several devices: data=N shards the clips, frames=N the frames of each clip",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help=f"type that the models compute in ({dtype}); bfloat16 suits accelerators and needs "
        "less memory, though weights stay float32",
    )


def make_mesh_of(args, axes=AXES, devices=None):
    """Returns the mesh that `--mesh` asks for, of the first devices, or None without the option.

    Args:
      args: the parsed command line.
      axes: the axes that the command accepts.
      devices: the devices to choose from; None: all.

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
        if axis not in axes or not size.isdecimal() or not int(size):
            raise UserError(
                f"--mesh {entry}; accepted: {' or '.join(f'{each}=N' for each in axes)}"
                f"{' or both, each' if len(axes) > 1 else ','} N a number of devices"
            )
        sizes[axis] = int(size)
    devices = jax.devices() if devices is None else devices
    needed = math.prod(sizes.values())
    if needed > len(devices):
        raise UserError(
            f"--mesh {' '.join(args.mesh)} needs {needed} devices; jax sees {len(devices)} "
            f"({devices[0].platform})"
        )
    return make_mesh(**sizes, devices=devices[:needed])


def own_mesh(args, one: bool):
    """Returns the mesh of this process's own devices that `--mesh` asks for.

    Args:
      args: the parsed command line.
      one: whether the first device serves without the option, and not all of them.
    """
    import jax

    from gen1_jax.distributed import make_mesh

    own = jax.local_devices()
    return make_mesh_of(args, devices=own) or make_mesh(devices=own[:1] if one else own)
