"""Runs the parts of a config, alone or all in order; each by its kind."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from gen1_jax.batch import Batch
from gen1_jax.config import (
    SAVED_CONFIG,
    changed_settings,
    check_config,
    load_saved_config,
    resolve_paths,
)
from gen1_jax.distributed import (
    check_shared,
    is_lead,
    make_mesh,
    on_lead,
    own_rows,
    wait_for_lead,
)
from gen1_jax.errors import StoreFailed, UserError, one_line
from gen1_jax.files import as_path, is_remote, read_json
from gen1_jax.randomness import stream_seed
from gen1_jax.runtime import naming_what_to_lower
from gen1_jax.structure_settings import (
    DEPTH_KEY,
    KEY,
    UNRECORDED,
    StructureRecipe,
    read_recipe,
)
from gen1_jax.training_checks import check_batches, check_settings


def run_part(config, workdir: Path, progress: bool = True, **options) -> None:
    """Runs one part in its folder, and says what it made. A finished part is not run again.

    Args:
      config: the part's; see configs/tiny.py.
      workdir: the part's folder.
      progress: whether to show bars.
      **options: of the part's kind: `profile` for training, `mesh` for encoding.

    Raises:
      UserError: a setting is not accepted, a part that this one needs is missing, or some of the
        job's processes do not see the folder.
    """
    workdir = as_path(workdir)
    config = check_config(config, workdir.name)
    if config.kind not in KINDS:
        raise UserError(f"a config of kind {config.kind!r}; accepted: {', '.join(KINDS)}")
    if is_remote(workdir) and config.kind not in ON_STORES:
        raise UserError(
            f"--workdir {workdir}: a part of kind {config.kind} is made in a folder of this "
            f"machine; those of kind {', '.join(ON_STORES)} are accepted on a store"
        )
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file; a folder is accepted")
    started = time.perf_counter()
    try:
        check_shared(workdir)
        config = resolve_paths(config, workdir)
        work = partial(KINDS[config.kind], config, workdir, progress, **options)
        made = wait_for_lead(work) if config.kind in OF_THE_LEAD else work()
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error
    except StoreFailed as error:
        raise UserError(f"{error.filename}: {one_line(error)}") from error
    if is_lead():
        name = config.get("name", workdir.absolute().name)
        tqdm.write(f"{name}: {made} ({time.perf_counter() - started:.0f} s)")


# ---- each kind of part: what was made, and where, is the value


def make_world(config, workdir: Path, progress: bool) -> str:
    """Renders the moving-shapes data set."""
    from gen1_jax.data_pipelines.moving_shapes.builder import build

    splits = build(workdir, config.builder, progress=progress)
    counts = ", ".join(f"{len(records)} {split}" for split, records in splits.items())
    return f"{counts} clips; {workdir}"


def make_tokenizer(config, workdir: Path, progress: bool) -> str:
    """Trains a tokenizer on the captions of the world."""
    from gen1_jax.data_pipelines.moving_shapes.builder import load
    from gen1_jax.tokenizer import load_tokenizer, train_tokenizer

    if (workdir / "tokenizer.json").exists():
        length = load_tokenizer(workdir).context_length
        if length != config.context_length:
            return (
                f"made before, and left as it is, although context_length was {length} and is "
                f"{config.context_length}; remove {workdir} to make it anew"
            )
        return f"made before; {workdir}"
    source = load(config.world, config.builder, "train")
    captions = (_text(source[i]["caption"]) for i in range(len(source)))
    train_tokenizer(captions, workdir, config.vocab_size, config.context_length)
    return f"tokenizer of {len(source)} captions; {workdir}"


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def train_model(config, workdir: Path, progress: bool, profile: int = 0) -> str:
    """Trains a model on the data that the config names."""
    from gen1_jax.data_pipelines.sources import (
        make_stream,
        make_validation_streams,
        read_preview_batch,
    )
    from gen1_jax.made_from import check_training, has_record
    from gen1_jax.resolve import resolve_training
    from gen1_jax.tokenizer import load_tokenizer
    from gen1_jax.training.loop import is_finished
    from gen1_jax.weights.importing import RECORD

    if (workdir / RECORD).exists():
        return f"{workdir} holds an imported model: nothing to train"
    if is_finished(workdir, config.num_steps):  # its data may be gone
        if has_record(workdir):
            on_lead(lambda: check_training(config, workdir))
        return _describe_finished(config, workdir)
    check_settings(config)
    begun = read_json(workdir / SAVED_CONFIG) if (workdir / "checkpoints").exists() else None
    if begun and DEPTH_KEY not in begun:
        config.depth = ConfigDict(UNRECORDED.to_json()[DEPTH_KEY])
    config = resolve_training(config, begun=(begun or {}).get("model"))
    if config.model.get("model_type") == "clip":
        tokenizer = load_tokenizer(config.data.tokenizer)
        text = config.model.text_config
        for name, has, room in (
            ("vocab_size", tokenizer.vocab_size, text.vocab_size),
            ("max_position_embeddings", tokenizer.context_length, text.max_position_embeddings),
        ):
            if has > room:
                raise UserError(
                    f"{config.data.tokenizer} needs a {name} of {has}; the config has {room}"
                )
        text.bos_token_id, text.eos_token_id = tokenizer.start_id, tokenizer.end_id
    made_from = on_lead(lambda: check_training(config, workdir))

    def rows(size: int, num_frames: int) -> Sequence[int]:
        return own_rows(make_mesh(**config.mesh), size, num_frames)

    seed = stream_seed(config.seed, config.name, "data")
    folder = train_on(
        config,
        workdir,
        lambda: make_stream(config.data, seed, rows=rows),
        lambda: read_preview_batch(config.data, rows),
        lambda: make_validation_streams(config.data, rows),
        progress=progress,
        profile=profile,
        made_from=None if begun and not has_record(workdir) else made_from,
    )
    return f"{config.num_steps} steps; {folder}"


def _describe_finished(config, workdir: Path) -> str:
    """Says that a part was trained before, and what to do if other settings are wanted now."""
    from gen1_jax.data_pipelines.settings import ENCODED

    steps, model = config.num_steps, workdir / "model"
    given = read_recipe(config.to_dict(), config.name)
    if config.data.get("form") == ENCODED and given == StructureRecipe():
        # Encoded data said their own when the part was trained.
        config[DEPTH_KEY] = config[KEY] = None
    changed = changed_settings(config, workdir)
    if not changed:
        return f"finished before, with {steps} steps; {model}"
    return (
        f"finished before, with {steps} steps, and left as it is, although {changed}. A larger "
        f"num_steps continues from step {steps} with the new settings; another --workdir starts "
        f"afresh; {model}"
    )


def train_on(
    config,
    workdir: Path,
    make_batches: Callable[[], Iterator[Batch]],
    make_preview_batch: Callable[[], Batch] | None = None,
    make_validation: Callable[[], Mapping[str, Callable[[], Iterator[Batch]]]] | None = None,
    *,
    progress: bool = True,
    profile: int = 0,
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Trains the part of a config on given data; nothing below this function sees the config.

    Args:
      config: of one trained part; see `configs/tiny.py`.
      workdir: the part's folder.
      make_batches: makes the stream of batches.
      make_preview_batch: makes the fixed batch of the previews.
      make_validation: returns, by kind of batch, what makes the stream of the validation split.
      progress: whether to show a bar.
      profile: steps to trace.
      made_from: the content of the part's made_from.json; None: it is not known.

    Returns:
      The model folder.

    Raises:
      UserError: bad settings, or a checkpoint or a model to start from that does not fit.
      Stopped: a signal ended the run, after it was saved.
    """
    import jax.numpy as jnp

    from gen1_jax.conditioning import Conditioner
    from gen1_jax.tokenizer import load_tokenizer
    from gen1_jax.training.loop import is_finished, train
    from gen1_jax.training.objectives import make_objective
    from gen1_jax.training.state import make_module, make_optimizer

    config = check_settings(config)
    mesh = make_mesh(**config.mesh)
    check_batches(config, mesh)
    if is_finished(workdir, config.num_steps):
        return workdir / "model"
    module = make_module(
        config.model.to_dict(),
        name=config.name,
        dtype=config.dtype,
        remat=config.remat,
        rank=config.lora.rank,
    )
    conditioner, encoder_params = Conditioner.load(
        config.frozen.to_dict(),
        dtype=jnp.dtype(config.dtype),
        recipe=read_recipe(config.to_dict(), config.name),
    )
    null_tokens = None
    if config.objective == "prior":
        tokenizer = load_tokenizer(config.tokenizer)
        null_tokens = tokenizer.encode([""])
        conditioner = conditioner.with_end_token(tokenizer.end_id)
    lower = "data.batch_size or data.image_batch_size, or raise microbatches, or set remat=layer"
    with naming_what_to_lower(f"training {config.name}", lower):
        return train(
            workdir,
            make_batches,
            name=config.name,
            module=module,
            objective=make_objective(
                config.objective, module, conditioner, config.loss.to_dict(), null_tokens
            ),
            optimizer=make_optimizer(num_steps=config.num_steps, **config.optimizer),
            encoder_params=encoder_params,
            mesh=mesh,
            num_steps=config.num_steps,
            seed=config.seed,
            dtype=config.dtype,
            ema_decay=config.ema_decay,
            ema_share=config.ema_share,
            microbatches=config.microbatches,
            reduce_once=config.reduce_once,
            init_from=config.init_from,
            merge=config.merge.to_dict(),
            sharding=config.sharding,
            min_size_to_shard=config.split_from,
            trains=config.trains,
            log_every=config.log_every,
            sample_every=config.sample_every,
            eval_every=config.eval_every,
            eval_batches=config.eval_batches,
            beside_share=config.beside_share,
            checkpoint_every=config.checkpoint_every,
            keep_checkpoints=config.keep_checkpoints,
            make_preview_batch=make_preview_batch,
            make_validation=make_validation,
            record=config.to_dict(),
            made_from=made_from,
            progress=progress,
            profile=profile,
        )


def read_trained(folder: Path, weights: str) -> tuple[Any, Any, str]:
    """Reads the newest checkpoint of a trained part, finished or not.

    Args:
      folder: the part's folder.
      weights: "ema" for the moving average, "raw" for the weights themselves.

    Returns:
      The module, its parameters, and a phrase that says what they are.

    Raises:
      UserError: the folder is not that of a trained part, or has no such checkpoint.
    """
    from gen1_jax.training.checkpoint import read_params
    from gen1_jax.weights.folder import module_from_config, param_template

    module = module_from_config(load_saved_config(folder).model.to_dict(), where=str(folder))
    step, params = read_params(folder / "checkpoints", param_template(module), weights)
    kind = "moving average of the weights" if weights == "ema" else "weights (no average)"
    return module, params, f"the {kind} at step {step}"


def encode(config, workdir: Path, progress: bool, mesh: Mesh | None = None) -> str:
    """Encodes the data of a config ahead of training."""
    from gen1_jax.precompute import encode

    encode(config, workdir, progress, mesh)
    return f"clips of {', '.join(config.splits)} are encoded; {workdir}"


def assemble(config, workdir: Path, progress: bool) -> str:
    """Copies the finished parts into one folder that `gen1 edit` reads."""
    from gen1_jax import pipeline
    from gen1_jax.made_from import check_pipeline
    from gen1_jax.trained_on import resolve_pipeline

    config = resolve_pipeline(config)
    folders = {**config.folders.to_dict(), "tokenizer": config.tokenizer}
    check_pipeline("pipeline", folders)
    pipeline.assemble(folders, config.settings.to_dict(), workdir)
    return f"pipeline for `gen1 edit`; {workdir}"


def check_given(config, workdir: Path, progress: bool) -> str:
    """Checks that a part that comes from elsewhere is there.

    Raises:
      UserError: it is not there; the message says what makes it.
    """
    if not (workdir / config.holds).exists():
        raise UserError(f"no {config.holds} in {workdir}; it is made by: {config.made_by}")
    return f"is there; {workdir / config.holds}"


def evaluate(config, workdir: Path, progress: bool) -> str:
    """Edits held-out clips of the world and measures the edits."""
    from gen1_jax.evaluation.world import evaluate_world

    evaluate_world(config, workdir, progress)
    return f"measures and pictures of {config.num_clips} clips; {workdir}"


def run_all(
    config: ConfigDict,
    workdir: Path,
    load_part: Callable[[str], ConfigDict],
    progress: bool = True,
    parts: Sequence[str] | None = None,
) -> None:
    """Runs all parts in order, each in `workdir/PART`. A stopped run goes on where it was.

    The processes of a job share the encoding and the training; process 0 alone does the rest.

    The evaluation's metrics.json is copied to `workdir` too.

    Args:
      config: the whole config, which lists the parts.
      workdir: folder of the run.
      load_part: part → its config.
      progress: whether to show bars.
      parts: run only these, in this order.
    """
    for part in parts or config.parts:
        run_part(load_part(part), workdir / part, progress)
        if is_lead() and (metrics := workdir / part / "metrics.json").exists():
            shutil.copyfile(metrics, workdir / metrics.name)


# Kinds of parts that may lie on gs:// or s3://. TFDS writes a world, and an evaluation its videos,
# on a disk alone.
ON_STORES = ("given", "tokenizer", "train", "encode", "pipeline")
# Kind of a part → the function that runs it.
KINDS = {
    "given": check_given,
    "world": make_world,
    "tokenizer": make_tokenizer,
    "train": train_model,
    "encode": encode,
    "pipeline": assemble,
    "evaluation": evaluate,
}
OF_THE_LEAD = ("world", "tokenizer", "pipeline", "evaluation")
