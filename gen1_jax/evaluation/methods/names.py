"""The names of the methods, which the command line shows without loading what they are made of."""

from collections.abc import Iterable

from gen1_jax.errors import UserError
from gen1_jax.settings import closest

NAMES = {
    "gen1": "the pipeline",
    "gen1-per-frame": "the pipeline with its temporal layers off",
}


def check_methods(names: Iterable[str]) -> None:
    """Raises UserError if a name is none of a method."""
    for name in names:
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise UserError(f"no method {name!r}{closest(name, NAMES)}; accepted: {known}")
