"""The controls of an edit, and the checks of what else a caller gives."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from gen1_jax.diffusion.solvers import check_solver
from gen1_jax.diffusion.structure import NUM_LEVELS
from gen1_jax.errors import UserError
from gen1_jax.settings import closest, show
from gen1_jax.text import check_text

# Earlier names of keywords → the names now, which are those of the flags.
OLDER_NAMES = {"num_steps": "steps", "depth": "structure", "structure_map": "structure"}


@dataclasses.dataclass(frozen=True)
class Controls:
    """The three controls of an edit, the number of its steps, and whether it has any time.

    Attributes:
      structure_level: t_s, 0 to 7, or an array [b]. 0 keeps every detail of the structure, 7 keeps
        nearly nothing.
      temporal_scale: ω_t, or an array [b]. Above 1 is smoother in time. At 0 the prediction without
        content sees each frame alone; the step from it towards the content still sees all frames.
      guidance_scale: ω, or an array [b]. It says how strictly the content is followed; None is the
        model's own.
      steps: sampling steps, 1 to 1000.
      per_frame: whether each frame is edited alone, without any temporal layer. ω_t then has no
        effect.
      solver: "ddim"; or "dpm++" or "unipc", which need fewer steps; see `diffusion.solvers`.
    """

    structure_level: Any = 0
    temporal_scale: Any = 1.0
    guidance_scale: Any = None
    steps: int = 50
    per_frame: bool = False
    solver: str = "ddim"

    def check(self) -> None:
        """Raises UserError if a control is out of its range."""
        levels = _numbers(self.structure_level)
        if (
            not levels.size
            or not np.issubdtype(levels.dtype, np.integer)
            or levels.min() < 0
            or levels.max() >= NUM_LEVELS
        ):
            raise UserError(
                f"structure level {show(self.structure_level)}; "
                f"whole numbers 0 to {NUM_LEVELS - 1} are accepted"
            )
        for name in ("temporal_scale", "guidance_scale"):
            value = getattr(self, name)
            if name == "guidance_scale" and value is None:
                continue
            numbers = _numbers(value)
            is_real = numbers.dtype.kind in "iuf"
            if not numbers.size or not is_real or not np.all(np.isfinite(numbers)):
                raise UserError(
                    f"{name.replace('_', ' ')} {show(value)}; a finite number is accepted"
                )
        if not is_whole(self.steps) or not 1 <= self.steps <= 1000:
            raise UserError(f"steps {show(self.steps)}; whole numbers 1 to 1000 are accepted")
        check_solver(self.solver)
        if not isinstance(self.per_frame, bool | np.bool_):
            raise UserError(f"per_frame is {show(self.per_frame)}; True or False is accepted")
        if self.per_frame and np.any(_numbers(self.temporal_scale) != 1):
            raise UserError(
                f"temporal scale {show(self.temporal_scale)} has no effect on frames that are "
                "edited alone; give it, or per_frame, not both"
            )


def is_whole(value: Any) -> bool:
    """Returns whether a value is a whole number."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _numbers(value: Any) -> np.ndarray:
    """Returns a control's value as an array; one of objects if it holds no numbers."""
    try:
        return np.atleast_1d(np.asarray(value))
    except ValueError:  # a ragged list
        return np.array([None])


def for_each_clip(name: str, value: Any, b: int) -> np.ndarray:
    """Returns a control as an array [b].

    Raises:
      UserError: it is neither one number nor one for each clip.
    """
    value = np.asarray(value)
    if value.shape not in ((), (1,), (b,)):
        raise UserError(
            f"{name} of {list(value.shape)}; one number is accepted, or [{b}], one for each clip"
        )
    return np.broadcast_to(value, (b,))


def fill_up(values: Any, more: int) -> Any:
    """Returns values [b ...] with `more` copies of the last one."""
    if not more:
        return values
    return np.concatenate([values, np.repeat(np.asarray(values)[-1:], more, axis=0)])


def check_seed(seed: Any) -> None:
    """Raises UserError if a seed is no whole number of 32 bits."""
    if not is_whole(seed) or not 0 <= seed < 2**32:
        raise UserError(f"seed {show(seed)}; whole numbers 0 to {2**32 - 1} are accepted")


def check_prompts(prompts: Any) -> None:
    """Raises UserError unless prompts are a list of texts, none of them empty."""
    if not isinstance(prompts, list | tuple) or not prompts:
        raise UserError(f"prompts are {show(prompts)}; a list of texts is accepted")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise UserError(
                f"the prompt is {show(prompt)} ({type(prompt).__name__}); a text is accepted"
            )
        if not check_text(prompt, "the prompt").strip():
            raise UserError(
                "the prompt is empty; say what the video should look like, or give an image"
            )


def as_pixels(name: str, value: Any, axes: str) -> np.ndarray:
    """Returns pictures or clips as an array.

    Args:
      name: what they are, for the message.
      value: the array.
      axes: its axes, such as "b H W 3".

    Raises:
      UserError: the value is no array of uint8 with these axes, or it is empty.
    """
    array = np.asarray(value)
    fits = array.ndim == len(axes.split()) and array.shape[-1] == 3 and array.dtype == np.uint8
    if not fits or not array.size:
        raise UserError(f"{name} of {array.dtype} {list(array.shape)}; [{axes}] uint8 is accepted")
    return array


def as_dtype(dtype: Any) -> Any:
    """Returns the type to compute in.

    Raises:
      UserError: it is no type of floating-point numbers.
    """
    try:
        if jnp.issubdtype(dtype, jnp.floating):
            return jnp.dtype(dtype)
    except TypeError:
        pass
    raise UserError(f"dtype is {show(dtype)}; float32, bfloat16 and float16 are accepted")


def seeds_of(seed: Any, b: int) -> np.ndarray:
    """Returns the seeds [b] uint32 of b clips, from one for all or one for each.

    Raises:
      UserError: a seed is no whole number of 32 bits, or there are not b of them.
    """
    seeds = for_each_clip("seed", seed, b)
    for each in seeds.tolist():
        check_seed(each)
    return seeds.astype(np.uint32)


def rename_older(given: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Returns keywords by their present names.

    Raises:
      UserError: a keyword is unknown; the line guesses which one is meant.
    """
    given = {OLDER_NAMES.get(name, name): value for name, value in given.items()}
    known = sorted(names)
    for name in given.keys() - names:
        raise UserError(f"no keyword {name!r}{closest(name, known)}; accepted: {', '.join(known)}")
    return given
