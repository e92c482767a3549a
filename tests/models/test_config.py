"""The one typed reader of config.json: what it accepts, and what it refuses in one line."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gen1_jax.errors import UserError
from gen1_jax.models.autoencoder import AutoencoderKL
from gen1_jax.models.clip import CLIPModel
from gen1_jax.models.config import MAX_PARAMETERS, check_against_tensors
from gen1_jax.models.dpt import DPTForDepthEstimation
from gen1_jax.models.prior import PriorTransformer
from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import param_template

MODELS = (VideoUNet, AutoencoderKL, CLIPModel, DPTForDepthEstimation, PriorTransformer)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_defaults_are_read_back_unchanged(cls):
    module = cls()
    assert cls.from_config(json.loads(json.dumps(module.to_config()))) == module


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (VideoUNet, "max_frames", "16"),
        (VideoUNet, "norm_eps", float("nan")),
        (VideoUNet, "temporal", 1),
        (VideoUNet, "layers_per_block", True),
        (VideoUNet, "block_out_channels", 320),
        (VideoUNet, "block_out_channels", []),
        (VideoUNet, "only_cross_attention", [{}, []]),
        (AutoencoderKL, "scaling_factor", 0),
        (AutoencoderKL, "scaling_factor", 10**400),
        (AutoencoderKL, "sample_size", [1, 2, 3]),
        (CLIPModel, "text_config", []),
        (CLIPModel, "projection_dim", None),
        (DPTForDepthEstimation, "num_channels", 1_000_000_000),
        (DPTForDepthEstimation, "reassemble_factors", [4, 2, 1, 0]),
        (PriorTransformer, "num_layers", -1),
        (PriorTransformer, "new\nkey", "on"),
        (PriorTransformer, "new", "x" * 10_000),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(cls, key, value):
    with pytest.raises(UserError) as caught:
        cls.from_config({key: value})
    text = str(caught.value)
    assert cls.__name__ in text and key.split("\n")[0] in text and "accepted" in text
    assert len(text.splitlines()) == 1 and len(text) < 600


def test_numbers_are_kept_as_they_are_written():
    factors = DPTForDepthEstimation.from_config({"reassemble_factors": [4, 2, 1, 0.5]})
    assert json.dumps(factors.to_config()["reassemble_factors"]) == "[4, 2, 1, 0.5]"


def test_a_network_of_too_many_parameters_is_refused_before_any_is_made():
    module = VideoUNet.from_config({"block_out_channels": [320, 640, 1280, 640_000]})
    with pytest.raises(UserError, match=re.escape(f"at most {MAX_PARAMETERS:.0e}")):
        param_template(module)


def test_sizes_beyond_a_checkpoint_s_tensors_are_refused():
    shapes = {f"{i}.weight": (64, 5000, 3, 3) for i in range(160)}
    small = PriorTransformer(num_layers=20, clip_embed_dim=5000)
    check_against_tensors(small, shapes, "weights")
    with pytest.raises(UserError, match="weights: num_layers=21, .* at most 20"):
        check_against_tensors(small.clone(num_layers=21), shapes, "weights")
    with pytest.raises(UserError, match="weights: clip_embed_dim=5001, .* at most 5000"):
        check_against_tensors(small.clone(clip_embed_dim=5001), shapes, "weights")


def test_mutated_files_end_in_one_line_or_load(tmp_path):
    """Nothing else comes of them, and nothing large is allocated.

    Each run draws other files. A failure names the seed; GEN1_TEST_SEED=seed draws them again.
    """
    pytest.importorskip("resource")
    if not Path("/proc/self/status").exists():
        pytest.skip("the process's size is read from /proc")
    seed = int(os.environ.get("GEN1_TEST_SEED") or time.time_ns())
    script = Path(__file__).with_name("mutated_configs.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "models", "400", str(seed)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-2000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["faults"] == [], f"seed {seed}: {result['faults'][:3]}"
    outcomes = result["outcomes"]
    assert min(outcomes.values()) > 2 and len(outcomes) == 3, f"seed {seed}: {outcomes}"
    assert outcomes["refused"] > 100, f"seed {seed}: {outcomes}"
