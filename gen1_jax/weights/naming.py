"""The one rule between Flax paths and PyTorch keys, and between their array layouts.

A module has the same name in Flax as in the public checkpoint, with `_` where PyTorch has a `.`
before a number: `down_blocks_0/resnets_1/conv1/kernel` in Flax is
`down_blocks.0.resnets.1.conv1.weight` in PyTorch. So no model needs a table. From Flax to PyTorch
the rule is a function of the path. From PyTorch to Flax it goes through a template, the
`jax.eval_shape` of the module's `init`, whose paths say which keys to expect.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from gen1_jax.errors import UserError

_WEIGHT_LEAVES = frozenset({"kernel", "scale", "embedding"})
_TRAILING_NUMBERS = re.compile(r"^(?P<stem>.*?)(?P<numbers>(?:_\d+)+)$")

# Flax [in, out], [w, in, out], [h, w, in, out] → PyTorch [out, in], [out, in, w], [out, in, h, w].
_TO_TORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
_TO_FLAX = {rank: tuple(np.argsort(axes)) for rank, axes in _TO_TORCH.items()}

# The names of attention layers in diffusers before it had one attention class. The autoencoders of
# SD 1.x are published with them. An alias counts only where the new name is expected and absent,
# because DPT and ViT have layers that are really called `query`.
_ALIASES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

# What PyTorch puts before a module's own name where the module is wrapped: torch.compile, FSDP,
# activation checkpointing, and DistributedDataParallel or DataParallel. Such a name counts only
# where the name without them is expected and absent.
_WRAPPERS = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\."
)

# Constants that older checkpoints hold beside the parameters. They are not learned.
_CONSTANTS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")

_MAX_LISTED = 10


class MismatchError(UserError):
    """The tensors at hand are not the tensors of the model.

    Attributes:
      missing: keys that the model has and the weights lack.
      unexpected: keys that the weights have and the model lacks.
      wrong_shapes: `(key, shape in the weights, shape in the model)`.
    """

    def __init__(
        self,
        what: str,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        wrong_shapes: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        advice: str = "",
    ):
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.wrong_shapes = tuple(wrong_shapes)
        shapes = [f"{key} is {list(got)}, not {list(want)}" for key, got, want in self.wrong_shapes]
        parts = [
            f"{len(names)} {title} ({list_names(names)})"
            for title, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", shapes),
            )
            if names
        ]
        super().__init__(f"{what}: {'; '.join(parts)}{advice}")


def list_names(names: Iterable[str], limit: int = _MAX_LISTED) -> str:
    """Returns the first `limit` names in one line, with the number of the others."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f", and {rest} more" if rest > 0 else "")


def torch_key(flax_path: tuple[str, ...]) -> str:
    """Returns the PyTorch key of a Flax path.

    Numbers at the end of a component become components of their own: `to_out_0` → `to_out.0`,
    `readout_projects_0_0` → `readout_projects.0.0`. Numbers after `linear` stay, because diffusers
    has layers that are really called `linear_1` and `linear_2`.
    """
    *modules, leaf = flax_path
    parts = []
    for component in modules:
        match = _TRAILING_NUMBERS.match(component)
        if match and match["stem"] != "linear":
            component = match["stem"] + match["numbers"].replace("_", ".")
        parts.append(component)
    parts.append("weight" if leaf in _WEIGHT_LEAVES else leaf)
    return ".".join(parts)


def to_torch(flax_path: tuple[str, ...], array: Any) -> np.ndarray:
    """Returns one Flax parameter in PyTorch's layout: contiguous, on the host, dtype kept."""
    return _contiguous(_to_torch_axes(flax_path, np.asarray(array)))


def to_flax(flax_path: tuple[str, ...], array: Any) -> np.ndarray:
    """Returns one PyTorch tensor in the layout of the Flax parameter; the inverse of `to_torch`."""
    array = np.asarray(array)
    if flax_path[-1] == "kernel" and array.ndim in _TO_FLAX:
        array = array.transpose(_TO_FLAX[array.ndim])
    return _contiguous(array)


def params_to_state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the PyTorch state dict of a tree of Flax parameters: host arrays, dtypes kept.

    Raises:
      ValueError: two paths give the same key, which is a mistake in a module's names.
    """
    state_dict: dict[str, np.ndarray] = {}
    for path, array in traverse_util.flatten_dict(params).items():
        key = torch_key(path)
        if key in state_dict:
            raise ValueError(f"two parameters have the key {key!r}; one is {'/'.join(path)}")
        state_dict[key] = to_torch(path, array)
    return state_dict


def state_dict_to_params(
    state_dict: Mapping[str, Any],
    template: Mapping[str, Any],
    what: str = "the weights do not fit the model",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Any]:
    """Returns the tree of Flax parameters of a PyTorch state dict: host arrays, dtypes kept.

    Args:
      state_dict: arrays by PyTorch key; each is read once.
      template: a tree of arrays or `jax.ShapeDtypeStruct`s that says which parameters there are.
      what: the beginning of the error's line.
      shapes: the shapes of the arrays, if `state_dict` would have to read an array to know them.

    Raises:
      MismatchError: a key is missing, unexpected or of another shape; lists them all.
    """
    if shapes is None:
        shapes = {name: np.shape(array) for name, array in state_dict.items()}
    source = match_keys(shapes, template, what)
    paths = traverse_util.flatten_dict(template)
    flat = {path: to_flax(path, state_dict[source[torch_key(path)]]) for path in paths}
    return traverse_util.unflatten_dict(flat)


def match_keys(
    shapes: Mapping[str, tuple[int, ...]],
    template: Mapping[str, Any],
    what: str = "the weights do not fit the model",
    unused: Sequence[str] = (),
) -> dict[str, str]:
    """Finds each PyTorch key that a model expects among the tensors at hand.

    Args:
      shapes: the shapes of the tensors at hand, by name.
      template: see `state_dict_to_params`.
      what: the beginning of the error's line.
      unused: patterns of "/"-paths that checkpoints may lack, because nothing is computed with
        them.

    Returns:
      The name at hand of each expected key, without unused keys that are absent.

    Raises:
      MismatchError: a key is missing, unexpected or of another shape; lists them all.
    """
    expected = {torch_key(path): path for path in traverse_util.flatten_dict(template)}
    wanted = torch_shapes(template)
    source, unexpected = _match_names(shapes, expected)
    missing = [
        key
        for key, path in expected.items()
        if key not in source and not any(re.search(p, "/".join(path)) for p in unused)
    ]
    wrong_shapes = [
        (name, tuple(shapes[name]), wanted[key])
        for key, name in source.items()
        if tuple(shapes[name]) != wanted[key]
    ]
    if missing or unexpected or wrong_shapes:
        raise MismatchError(what, missing, unexpected, wrong_shapes)
    return source


def torch_shapes(template: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each PyTorch tensor of a model, in the order of its parameters."""
    shapes = {}
    for path, leaf in traverse_util.flatten_dict(template).items():
        placeholder = np.broadcast_to(np.int8(0), leaf.shape)  # takes no memory
        shapes[torch_key(path)] = _to_torch_axes(path, placeholder).shape
    return shapes


def _match_names(
    names: Collection[str], expected: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Returns the name at hand of each expected key, and the names that nothing expects."""
    source = {key: key for key in expected if key in names}
    unexpected = []
    for name in names:
        if name in source:
            continue
        plain = _WRAPPERS.sub("", name)
        renamed = (plain.replace(old, new) for old, new in _ALIASES.items() if old in plain)
        found = next(
            (key for key in (plain, *renamed) if key in expected and key not in source), None
        )
        if found is not None:
            source[found] = name
        elif not _CONSTANTS.search(name):
            unexpected.append(name)
    return source, unexpected


def _to_torch_axes(flax_path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    if flax_path[-1] == "kernel" and array.ndim in _TO_TORCH:
        return array.transpose(_TO_TORCH[array.ndim])
    return array


def _contiguous(array: np.ndarray) -> np.ndarray:
    # np.ascontiguousarray turns a scalar (CLIP's logit_scale) into a vector of one.
    return np.ascontiguousarray(array).reshape(array.shape)
