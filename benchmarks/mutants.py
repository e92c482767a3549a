"""Checks the tests of the core: each of some fifty faults, put into a copy, must fail a test.

    python benchmarks/mutants.py                     # all of them
    python benchmarks/mutants.py --only diffusion    # those whose name holds a word

A mutant is one changed expression of the package. It survives if the tests that should fail pass.
The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gen1_jax", "configs", "data_pipelines")


class Mutant(NamedTuple):
    """A fault.

    Attributes:
      name: the room, and what is wrong there.
      old: text that stands once in the packages.
      new: text that takes its place.
      tests: the test files that should fail, separated by spaces.
    """

    name: str
    old: str
    new: str
    tests: str


PROCESS, STRUCTURE = "tests/diffusion/test_process.py", "tests/diffusion/test_structure.py"
GUIDANCE, SAMPLER = "tests/diffusion/test_guidance.py", "tests/diffusion/test_sampler.py"
PRIOR = "tests/diffusion/test_prior_diffusion.py"
UNET = "tests/models/test_unet.py tests/models/test_unet_parity.py"
ATTENTION, LAYERS = "tests/models/test_attention.py", "tests/models/test_layers.py"
CLIP = "tests/models/test_clip.py"
STEP = "tests/training/test_step.py"
NAMING, MERGE = "tests/weights/test_naming.py", "tests/weights/test_merge.py"
MIXTURE = "tests/data_pipelines/test_mixture.py"
FOOTAGE = "tests/data_pipelines/footage"
DUPLICATES = f"{FOOTAGE}/test_neighbours.py {FOOTAGE}/test_duplicates.py"
CONDITIONING = "tests/test_conditioning.py"
METRICS = "tests/evaluation/test_metrics.py"
SIMILARITY = "tests/evaluation/test_metrics_similarity.py"
MOTION = "tests/evaluation/test_metrics_motion.py"

MUTANTS = (
    # ---- the diffusion process
    Mutant(
        "diffusion: β is linear instead of √β",
        "np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2",
        "np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)",
        PROCESS,
    ),
    Mutant(
        "diffusion: the sign of z_0 in v", "return a * eps - s * z0", "return a * eps + s * z0",
        PROCESS,
    ),
    Mutant(
        "diffusion: the sign of z_t in ε from v",
        "a * prediction + s * zt", "a * prediction - s * zt", PROCESS,
    ),
    Mutant(
        "diffusion: z_0 from ε without its division",
        "return (zt - s * prediction) / a, prediction", "return zt - s * prediction, prediction",
        PROCESS,
    ),
    Mutant(
        "diffusion: zero terminal SNR moves the first step",
        "root = (root - root[-1]) * root[0] / (root[0] - root[-1])", "root = root - root[-1]",
        PROCESS,
    ),
    Mutant(
        "diffusion: DDIM ends at ᾱ_1",
        "z0, eps, jnp.maximum(t_next, 0)", "z0, eps, jnp.maximum(t_next, 1)", PROCESS,
    ),
    Mutant(
        "diffusion: leading timesteps without their offset",
        "[::-1] * stride + offset", "[::-1] * stride", PROCESS,
    ),
    Mutant(
        "diffusion: trailing timesteps round down",
        "np.round(ends).astype(int) - 1", "np.floor(ends).astype(int) - 1", PROCESS,
    ),
    # ---- structure
    Mutant(
        "structure: depth is normalised by frame, not by clip",
        "low = depth.min((1, 2, 3), keepdims=True)", "low = depth.min((2, 3), keepdims=True)",
        STRUCTURE,
    ),
    Mutant(
        "structure: other taps of the blur",
        "np.array([1, 4, 6, 4, 1]) / 16", "np.array([1, 2, 3, 2, 1]) / 9", STRUCTURE,
    ),
    Mutant(
        "structure: columns are not blurred",
        "blur_matrices(depth.shape[3]))[level]", "blur_matrices(depth.shape[3]))[0 * level]",
        STRUCTURE,
    ),
    Mutant(
        "structure: one wave in the embedding of a level",
        "jnp.asarray([1.0, 0.25])", "jnp.asarray([1.0, 1.0])", STRUCTURE,
    ),
    # ---- guidance and sampling
    Mutant(
        "guidance: the temporal term has content",
        "temporal * (video_null - image_null)", "temporal * (video_content - image_null)",
        GUIDANCE,
    ),
    Mutant(
        "guidance: null content is ones",
        "null = jnp.zeros_like(content)", "null = jnp.ones_like(content)", GUIDANCE,
    ),
    Mutant(
        "guidance: the image branch has temporal layers",
        "num_video_branches=2,", "num_video_branches=3,", GUIDANCE,
    ),
    Mutant(
        "sampler: strength rounds down",
        "max(1, round(strength * num_steps))", "max(1, int(strength * num_steps))", SAMPLER,
    ),
    Mutant(
        "sampler: the network is told where a step lands",
        "denoise(z, jnp.broadcast_to(t, z.shape[:1]))",
        "denoise(z, jnp.broadcast_to(row.landing, z.shape[:1]))",
        SAMPLER,
    ),
    # ---- the prior's process
    Mutant(
        "prior: the last step does not end clean",
        "np.append(alpha_bars[timesteps[1:]], one)",
        "np.append(alpha_bars[timesteps[1:]], alpha_bars[0])",
        PRIOR,
    ),
    Mutant(
        "prior: guidance starts from the text",
        "return x0_null + guidance_scale * (x0_text - x0_null)",
        "return x0_text + guidance_scale * (x0_text - x0_null)",
        PRIOR,
    ),
    Mutant(
        "prior: twice the clamp",
        "jnp.clip(x0, -clamp, clamp)", "jnp.clip(x0, -2 * clamp, 2 * clamp)", PRIOR,
    ),
    Mutant(
        "prior: captions are kept where they should be dropped",
        "(part.ndim - 1)), null_part, part)", "(part.ndim - 1)), part, null_part)", PRIOR,
    ),
    # ---- the UNet
    Mutant(
        "unet: temporal layers touch images",
        "self.video_branches > 0 and self.frames > 1", "self.video_branches > 0", UNET,
    ),
    Mutant(
        "unet: a temporal transformer does not start at zero",
        'kernel_init=zeros, name="proj_out"', 'name="proj_out"', UNET,
    ),
    Mutant(
        "unet: a temporal convolution does not start at zero",
        'self.param("kernel", zeros, (3, channels, channels))',
        'self.param("kernel", nn.initializers.ones, (3, channels, channels))',
        UNET,
    ),
    Mutant(
        "unet: the positions of other frames", "position[:n, None]", "position[-n:, None]", UNET,
    ),
    Mutant(
        "unet: group norm takes its mean over all frames",
        "mean = group_mean(flat.mean(1))",
        "mean = group_mean(jnp.broadcast_to(flat.mean((0, 1)), (batch, channels)))",
        UNET,
    ),
    Mutant(
        "unet: epsilon of the transformer's layer norms",
        "LayerNorm(1e-5, dtype=self.dtype, name=name)",
        "LayerNorm(1e-3, dtype=self.dtype, name=name)",
        UNET,
    ),
    # ---- attention and layers
    Mutant(
        "attention: scaled by 1/d",
        "scale = q.shape[-1] ** -0.5 if", "scale = q.shape[-1] ** -1.0 if", ATTENTION,
    ),
    Mutant(
        "attention: a masked pair counts",
        "jnp.where(mask, logits, jnp.finfo(jnp.float32).min)", "jnp.where(mask, logits, 0.0)",
        ATTENTION,
    ),
    Mutant(
        "attention: a gradient without the softmax's own part",
        "weights * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))",
        "weights * (dy @ v.swapaxes(-1, -2))",
        ATTENTION,
    ),
    Mutant(
        "layers: group norm's statistics in the input's type",
        "x.reshape(batch, -1, channels).astype(jnp.float32)", "x.reshape(batch, -1, channels)",
        LAYERS,
    ),
    Mutant(
        "layers: the constant of quick_gelu",
        "jax.nn.sigmoid(1.702 * x)", "jax.nn.sigmoid(1.6 * x)", CLIP,
    ),
    Mutant(
        "layers: frequencies of the timestep embedding",
        "jnp.arange(half, dtype=jnp.float32) / half)",
        "jnp.arange(half, dtype=jnp.float32) / (half - 1))",
        LAYERS,
    ),
    # ---- a step of training
    Mutant(
        "training: the average starts with its last decay",
        "jnp.maximum(1 - ema_decay, 1 / (1 + ema_share * state.step))", "1 - ema_decay", STEP,
    ),
    Mutant(
        "training: a gradient that is no number is applied",
        "good = jnp.isfinite(value) & jnp.isfinite(norm)", "good = jnp.isfinite(value)", STEP,
    ),
    Mutant(
        "training: a gradient is clipped value by value",
        "optax.clip_by_global_norm(clip_norm)", "optax.clip(clip_norm)", STEP,
    ),
    Mutant(
        "training: microbatches are summed",
        "return jax.tree.map(lambda x: x / microbatches, total)", "return total", STEP,
    ),
    Mutant(
        "training: all microbatches draw the same numbers",
        "jax.random.fold_in(key, index)", "jax.random.fold_in(key, 0 * index)", STEP,
    ),
    Mutant(
        "training: all steps draw the same numbers",
        "jax.random.fold_in(key, state.step)", "jax.random.fold_in(key, 0 * state.step)",
        STEP,
    ),
    Mutant(
        "training: weight decay on every parameter",
        'path[-1].key == "kernel", params', "True, params", STEP,
    ),
    Mutant(
        "training: content is dropped 9 times in 10",
        "jax.random.bernoulli(drop_key, 1 - content_drop_rate",
        "jax.random.bernoulli(drop_key, content_drop_rate",
        "tests/training/test_objectives.py",
    ),
    Mutant(
        "checkpoint: what a killed save left stays",
        "cleanup_tmp_directories=True",
        "cleanup_tmp_directories=False",
        "tests/training/test_checkpoint.py",
    ),
    Mutant(
        "errors: a disk that is full is bad input",
        "cause.errno in _PASSING_ERRNOS",
        "cause.errno not in _PASSING_ERRNOS",
        "tests/test_errors.py",
    ),
    Mutant(
        "restarts: a job is given up one start early",
        'start - known["start"]) > most',
        'start - known["start"]) >= most',
        "tests/commands/test_restarts.py",
    ),
    Mutant(
        "checkpoint: the oldest is restored",
        "for step in reversed(steps):", "for step in steps:",
        "tests/training/test_checkpoint.py",
    ),
    # ---- weights
    Mutant(
        "naming: height and width of a kernel change places",
        "4: (3, 2, 0, 1)}", "4: (3, 2, 1, 0)}", NAMING,
    ),
    Mutant(
        "merge: zeros come before the loaded channels",
        "extra = [(0, want - got) for", "extra = [(want - got, 0) for", MERGE,
    ),
    # ---- data
    Mutant(
        "data: videos are skipped where images are read",
        "else (0, step - before)", "else (0, step)", MIXTURE,
    ),
    Mutant(
        "data: every host reads the same records",
        "return 0, batch * self._batch_size + self._rows[row]",
        "return 0, batch * self._batch_size + row", MIXTURE,
    ),
    Mutant(
        "data: a restored stream skips a batch",
        'self._step = int(state["next_index"])', 'self._step = int(state["next_index"]) + 1',
        MIXTURE,
    ),
    Mutant(
        "duplicates: a range forgets the entries before it",
        "before = max(0, begin - WINDOW)", "before = begin", DUPLICATES,
    ),
    Mutant(
        "duplicates: the earlier record is dropped",
        "one, two = np.where(swapped, two, one), np.where(swapped, one, two)", "pass", DUPLICATES,
    ),
    Mutant(
        "duplicates: mirrored pictures have other keys",
        "turned = signs[:, band, first, None] & _ODD[order].ravel()",
        "turned = np.zeros_like(_ODD[order].ravel())", DUPLICATES,
    ),
    Mutant(
        "duplicates: candidates are dropped without comparing",
        'same = pairs["distance"][now] == neighbours.EXACT', "same = np.ones(len(now), bool)",
        DUPLICATES,
    ),
    # ---- conditioning
    Mutant(
        "conditioning: the scaling factor of the log variance",
        "logvar + 2 * math.log(scale)", "logvar + math.log(scale)", CONDITIONING,
    ),
    Mutant(
        "conditioning: decoding multiplies by the scaling factor",
        "latents / self.vae.scaling_factor", "latents * self.vae.scaling_factor", CONDITIONING,
    ),
    Mutant(
        "conditioning: content keeps the length of 1",
        "jnp.maximum(norm, 1e-6) * embedding.shape[-1] ** 0.5", "jnp.maximum(norm, 1e-6)",
        CONDITIONING,
    ),
    Mutant("conditioning: CLIP's mean red", "0.48145466", "0.5", CONDITIONING),
    # ---- measures
    Mutant(
        "metrics: every frame is compared with the first",
        "unit[:, 1:] * unit[:, :-1]", "unit[:, 1:] * unit[:, :1]", METRICS,
    ),
    Mutant(
        "metrics: inverted depth correlates",
        "covariance / np.maximum(norm, 1e-9)", "np.abs(covariance) / np.maximum(norm, 1e-9)",
        METRICS,
    ),
    Mutant(
        "metrics: SSIM's window is wider",
        "_SSIM_SIDE, _SSIM_SIGMA = 11, 1.5", "_SSIM_SIDE, _SSIM_SIGMA = 11, 1.8", SIMILARITY,
    ),
    Mutant(
        "metrics: what is inside the mask counts in feature distances",
        "share = _area_share(outside, ", "share = _area_share(outside | True, ", SIMILARITY,
    ),
    Mutant(
        "metrics: warp error at edges of motion",
        "~(source_flow.occluded | find_motion_edges(source_flow.forward))",
        "~source_flow.occluded", MOTION,
    ),
    Mutant(
        "metrics: all pixels that move weigh the same",
        "product / own, 0.0), speed)", "product / own / np.maximum(speed, still), 0.0), moves)",
        MOTION,
    ),
    Mutant(
        "world: success though a frame shows what was to be replaced",
        "(value == source[name] or source[name] not in by_frame[name])", "True",
        "tests/evaluation/test_world_items.py",
    ),
    Mutant(
        "lineup: a faint trace of a texture is a texture",
        "2 * _FAINTEST, 1)", "0, 1)", "tests/data_pipelines/test_lineup.py",
    ),
    Mutant(
        "renderer: another shape has another area",
        'larger = np.float32(math.sqrt(', 'larger = np.float32(abs(',
        "tests/data_pipelines/test_renderer.py",
    ),
    Mutant(
        "shake: the background rolls the other way",
        "return x * cos + y * sin, y * cos - x * sin",
        "return x * cos - y * sin, y * cos + x * sin",
        "tests/data_pipelines/test_renderer.py",
    ),
    Mutant(
        "containers: a list of files is opened, too",
        '"format_whitelist": ",".join(', '"format_whitelist": "concat," + ",".join(',
        "tests/video/test_refused_inputs.py",
    ),
    Mutant(
        "isolation: clips of a file that crashes late are made twice",
        "given, was_fresh, is_whole = 0,", "given, was_fresh, is_whole = -2,",
        "tests/data_pipelines/test_isolation.py",
    ),
    Mutant(
        "flow: what leaves the frame is not occluded",
        "~inside | (difference >= ", "(difference >= ", "tests/video/test_flow.py",
    ),
    Mutant(
        "statistics: several prompts on a video count as videos",
        'r.get("video", r.get("clip", number))', 'r.get("clip", number)',
        "tests/evaluation/test_statistics.py",
    ),
    Mutant(
        "statistics: p-values are one-sided",
        "as_far += (np.abs((2.0 * bits - 1) @ values) >= least)",
        "as_far += ((2.0 * bits - 1) @ values >= least)",
        "tests/evaluation/test_statistics.py",
    ),
    Mutant(
        "statistics: Holm's correction does not step down",
        "steps = p_values[order] * np.arange(len(order), 0, -1)",
        "steps = p_values[order] * len(order)",
        "tests/evaluation/test_statistics.py",
    ),
    Mutant(
        "clip: all pairs hold each frame and itself",
        "return (total - np.sum(unit**2, axis=(1, 2))) / (n * (n - 1))",
        "return total / (n * n)", "tests/evaluation/test_clip_metrics.py",
    ),
    Mutant(
        "clip: the direction of pictures is that of embeddings of any length",
        "normalised(normalised(outputs) - normalised(sources))",
        "normalised(outputs - sources)", "tests/evaluation/test_clip_metrics.py",
    ),
    Mutant(
        "clip: an edit succeeds on half of its frames",
        "source_prompts) > 0.5)", "source_prompts) >= 0.5)",
        "tests/evaluation/test_clip_metrics.py",
    ),
    Mutant(
        "clip: a record of another CLIP counts",
        'self.identity["metric_clip"] = self.clip.digest', "pass",
        "tests/evaluation/test_judges.py",
    ),
    Mutant(
        "clip: PickScore of other weights counts",
        "not weights.items() <= records[place].items()", "False", "tests/evaluation/test_judges.py",
    ),
    Mutant(
        "fvd: frames in any order", "seen) / 255 - _MEAN", "seen[::-1]) / 255 - _MEAN",
        "tests/evaluation/test_judges.py",
    ),
    Mutant(
        "seconds: of compiling too", "if event.startswith(_COMPILING):", "if False:",
        "tests/evaluation/test_clip_metrics.py",
    ),
)  # fmt: skip


def find(mutant: Mutant, root: Path = ROOT) -> Path:
    """Returns the file that holds a mutant's text.

    Raises:
      ValueError: the text stands nowhere or more than once, so the mutant must be written anew.
    """
    # Not in what `gen1 export` writes beside a pipeline, PyTorch's side of the same equations.
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    files = [path for path in paths if "pytorch" not in path.parts]
    counts = {path: path.read_text(encoding="utf-8").count(mutant.old) for path in files}
    if sum(counts.values()) != 1:
        raise ValueError(f"{mutant.old!r} stands {sum(counts.values())} times, not once")
    return max(counts, key=counts.get)


def copy_tree(folder: Path) -> None:
    """Copies what tests need; links the packages beside gen1_jax/ to where they are imported."""
    for name in (*PACKAGES, "tests", "benchmarks", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("configs", "data_pipelines"):
        (folder / "gen1_jax" / name).symlink_to(folder / name)


def run_tests(folder: Path, tests: str, cache: Path) -> int:
    """Returns pytest's exit code for the copy in a folder."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(cache),  # compiled programs; a mutant changes few
        "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--no-header", "--tb=line", *tests.split()],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    return done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="words of the mutants' names")
    parser.add_argument(
        "--skip-check", action="store_true", help="do not first run the tests without a mutant"
    )
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if any(word in m.name for word in arguments.only)]
    start, outcomes = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(prefix="gen1-mutants-") as root:
        folder, cache = Path(root, "copy"), Path(root, "cache")
        cache.mkdir()
        copy_tree(folder)
        if not arguments.skip_check:
            for tests in dict.fromkeys(m.tests for m in chosen):
                if run_tests(folder, tests, cache):
                    sys.exit(f"{tests} fails without a mutant")
        for mutant in chosen:
            path = find(mutant, folder)
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
            began = time.perf_counter()
            code = run_tests(folder, mutant.tests, cache)
            path.write_text(text, encoding="utf-8")
            outcomes[mutant.name] = {0: "survived", 1: "killed"}.get(code, f"error {code}")
            seconds = time.perf_counter() - began
            print(f"{outcomes[mutant.name]:9} {seconds:4.0f} s  {mutant.name}", flush=True)
    result = {
        "mutants": len(outcomes),
        "killed": sum(outcome == "killed" for outcome in outcomes.values()),
        "not_killed": [name for name, outcome in outcomes.items() if outcome != "killed"],
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
