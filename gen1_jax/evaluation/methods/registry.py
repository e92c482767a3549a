"""The methods by name, and what each is made of."""

from collections.abc import Callable, Iterable

from gen1_jax.editing import VideoEditor
from gen1_jax.errors import UserError
from gen1_jax.evaluation.methods.base import Method
from gen1_jax.evaluation.methods.gen1 import Gen1, Gen1PerFrame
from gen1_jax.settings import closest

METHODS: dict[str, Callable[..., Method]] = {
    "gen1": lambda editor: Gen1(),
    "gen1-per-frame": lambda editor: Gen1PerFrame(),
}


def check_methods(names: Iterable[str]) -> None:
    """Raises UserError if a name is none of a method."""
    for name in names:
        if name not in METHODS:
            raise UserError(
                f"no method {name!r}{closest(name, METHODS)}; accepted: {', '.join(METHODS)}"
            )


def make_methods(names: Iterable[str], editor: VideoEditor) -> list[Method]:
    """Returns the methods of these names, each once.

    Raises:
      UserError: a name is unknown.
    """
    check_methods(names)
    return [METHODS[name](editor) for name in dict.fromkeys(names)]
