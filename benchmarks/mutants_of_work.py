"""Faults in training, weights, data, conditioning and measures, for mutants.py."""

from mutants_of_model import Mutant

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
SHARDS = "tests/data_pipelines/test_shards.py"

MUTANTS = (
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
    Mutant(
        "data: a checksum is not compared",
        'if zlib.crc32(entry) != int.from_bytes(data[size:], "little"):', "if False:",
        "tests/data_pipelines/test_encoded.py",
    ),
    Mutant(
        "data: a replacement says nothing of it",
        "{REPLACED: np.int32(attempt > 0)}", "{REPLACED: np.int32(0)}",
        "tests/data_pipelines/test_encoded.py",
    ),
    Mutant(
        "data: a window leaves a lane's last record out",
        "(lane + 1) * total // self.lanes", "(lane + 1) * total // self.lanes - 1", SHARDS,
    ),
    Mutant(
        "data: a file that a thread reads is closed",
        "in self._files.items() if not users]", "in self._files.items()]", SHARDS,
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
