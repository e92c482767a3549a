"""What each method is made of."""

from collections.abc import Callable, Iterable

from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.methods.base import Method
from gen1_jax.evaluation.methods.gen1 import Gen1, Gen1PerFrame
from gen1_jax.evaluation.methods.names import check_methods

# Name, of `names.NAMES` → what makes the method.
MAKERS: dict[str, Callable[..., Method]] = {
    "gen1": lambda editor: Gen1(),
    "gen1-per-frame": lambda editor: Gen1PerFrame(),
}


def make_methods(names: Iterable[str], editor: VideoEditor) -> list[Method]:
    """Returns the methods of these names, each once.

    Raises:
      UserError: a name is unknown.
    """
    check_methods(names)
    return [MAKERS[name](editor) for name in dict.fromkeys(names)]
