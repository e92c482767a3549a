"""What each method is made of."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.methods.base import Method
from gen1_jax.evaluation.methods.depth_per_frame import DepthPerFrame
from gen1_jax.evaluation.methods.gen1 import Gen1, Gen1PerFrame
from gen1_jax.evaluation.methods.names import MODELS, check_methods, is_pipeline
from gen1_jax.evaluation.methods.outputs import Outputs
from gen1_jax.evaluation.methods.propagation import PropagateFirstFrame
from gen1_jax.evaluation.methods.sd_depth import SDDepth
from gen1_jax.evaluation.methods.sdedit import SDEditPerFrame, SDEditPerFrameFixed, SDEditVideo
from gen1_jax.evaluation.methods.stage import Stage
from gen1_jax.evaluation.methods.warp_and_renoise import WarpAndRenoise

_OF_PIPELINE = (Gen1, Gen1PerFrame, PropagateFirstFrame)
_OF_MODELS = (DepthPerFrame, SDEditPerFrame, SDEditPerFrameFixed, SDEditVideo, WarpAndRenoise)
# Name, of `names.NAMES` → what makes the method, of the stage of its model or of the solver.
MAKERS: dict[str, Callable[..., Method]] = {
    each.name: each for each in (*_OF_PIPELINE, *_OF_MODELS)
}


def make_methods(
    names: Iterable[str],
    editor: VideoEditor,
    models: Mapping[str, Path],
    outputs: Mapping[str, Path] | None = None,
    solver: str = "ddim",
) -> list[Method]:
    """Returns the methods of these names, each once, and those that are read from folders.

    Args:
      names: of `names.NAMES`.
      editor: the pipeline.
      models: the model folders of the rivals, by the values of `names.MODELS`. That of `depth`
        may be a whole pipeline of diffusers, see `SDDepth`.
      outputs: name of a system → the folder of its results.
      solver: of the pipeline's own sampling; rivals have DDIM.

    Raises:
      UserError: a name is unknown, or a model is missing or does not fit the pipeline.
    """
    check_methods(names)
    stages: dict[str, Stage] = {}  # a model that several methods use is loaded once
    made = []
    for name in dict.fromkeys(names):
        model = MODELS.get(name)
        if model == "depth" and is_pipeline(models[model]):
            made.append(SDDepth(editor, models[model]))
            continue
        if model and model not in stages:
            stages[model] = Stage(editor, models[model], structured=model == "depth")
        made.append(MAKERS[name](stages[model] if model else solver))
    return made + [Outputs(name, folder) for name, folder in (outputs or {}).items()]
