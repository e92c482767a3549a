"""An exported pipeline for a process that can import neither jax nor this project.

The first argument of the process is the pipeline's folder. `in.npz` of the working folder holds
what tests/weights/test_exported_pipeline.py gives.
"""

import sys
import warnings
from pathlib import Path


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "orbax", "gen1_jax", "data_pipelines"):
            raise ImportError(f"{name} is not to be had here")


sys.meta_path.insert(0, Refuse())
warnings.simplefilter("ignore")

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

FOLDER = Path(sys.argv[1])
GIVEN = dict(np.load("in.npz"))
PROMPT = "a red ball over snow"
SMALL = {"height": 16, "width": 24, "num_inference_steps": 2}  # the size of GIVEN["frames"]


def load(folder=FOLDER, **options):
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(folder), trust_remote_code=True, **options
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def edit(pipe, video=None, prompt=PROMPT, output_type="uint8", **options):
    options = SMALL | {"generator": seeded()} | options
    video = GIVEN["frames"] if video is None else video
    return pipe(video, prompt, output_type=output_type, **options)


def refused(call, *words):
    try:
        call()
    except ValueError as error:
        assert all(word in str(error) for word in words), error
        assert "\n" not in str(error)
    else:
        raise AssertionError(f"no error that says {words}")
