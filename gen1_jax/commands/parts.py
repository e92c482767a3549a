"""The parts of a config, each run by its kind: world, training, encoding, pipeline, evaluation."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gen1_jax.commands.configs import resolve_paths
from gen1_jax.errors import UserError


def run_part(config, workdir: Path, progress: bool = True, **options) -> None:
    """Runs a part in its folder; what is there and finished is not made again.

    `options` are those of the part's kind: `profile`, of training.

    Raises:
      UserError: bad settings, or a part that this one needs is missing.
    """
    if config.kind not in KINDS:
        raise UserError(f"a config of kind {config.get('kind')!r}; accepted: {', '.join(KINDS)}")
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file; a folder is accepted")
    try:
        KINDS[config.kind](resolve_paths(config, workdir), workdir, progress, **options)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error


def make_world(config, workdir: Path, progress: bool) -> None:
    from data_pipelines.moving_shapes.builder import build

    build(workdir, config.builder, progress=progress)


def make_tokenizer(config, workdir: Path, progress: bool) -> None:
    from data_pipelines.moving_shapes.builder import load
    from gen1_jax.tokenizer import train_tokenizer

    if (workdir / "tokenizer.json").exists():
        return
    source = load(config.world, config.builder, "train")
    captions = (_text(source[i]["caption"]) for i in range(len(source)))
    train_tokenizer(captions, workdir, config.vocab_size, config.context_length)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def train_model(config, workdir: Path, progress: bool, profile: int = 0) -> None:
    from gen1_jax.commands.data import make_preview_batch, make_stream
    from gen1_jax.tokenizer import load_tokenizer
    from gen1_jax.training import train

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
    train(
        config,
        workdir,
        lambda: make_stream(config.data, config.seed),
        make_preview_batch(config.data),
        progress,
        profile,
    )


def encode(config, workdir: Path, progress: bool) -> None:
    """Raw clips → the encoded form, once and for all."""
    import jax
    import jax.numpy as jnp

    from data_pipelines.encoded import EncodedWriter
    from data_pipelines.moving_shapes.builder import load
    from data_pipelines.moving_shapes.records import decode_clip
    from gen1_jax.conditioning import Conditioner
    from gen1_jax.structure import NUM_LEVELS
    from gen1_jax.tokenizer import load_tokenizer

    if not 1 <= config.levels_per_clip <= NUM_LEVELS:
        raise UserError(
            f"levels_per_clip is {config.levels_per_clip}; 1 to {NUM_LEVELS} are accepted"
        )
    conditioner, frozen = Conditioner.load(config.frozen.to_dict(), jnp.dtype(config.dtype))
    frozen = jax.device_put(frozen)
    tokenizer = load_tokenizer(config.tokenizer)
    encode_fn = jax.jit(conditioner.encode_record)
    size = config.batch_size
    for number, split in enumerate(config.splits):
        if (workdir / split / "meta.json").exists():
            continue
        source = load(config.world, config.builder, split)
        rng = np.random.default_rng([config.seed, number])
        bar = tqdm(
            total=len(source),
            desc=f"encode {split}",
            unit="clip",
            disable=not progress,
            dynamic_ncols=True,
        )
        with bar, EncodedWriter(workdir / split) as writer:
            for start in range(0, len(source), size):
                clips = [
                    decode_clip(source[i]) for i in range(start, min(start + size, len(source)))
                ]
                frames = np.stack([clip["frames"] for clip in clips])
                # Level 0, and distinct random others for each clip.
                others = [
                    1 + rng.permutation(NUM_LEVELS - 1)[: config.levels_per_clip - 1] for _ in clips
                ]
                levels = np.stack([np.r_[0, o] for o in others]).astype(np.int32)
                padding = [(0, size - len(clips))] + [(0, 0)] * 4
                encoded = encode_fn(
                    frozen,
                    np.pad(frames, padding, mode="edge"),
                    np.pad(levels, padding[:2], mode="edge"),
                )
                encoded = {name: np.asarray(x, np.float16) for name, x in encoded.items()}
                tokens = tokenizer.encode([_text(clip["caption"]) for clip in clips])
                for i in range(len(clips)):
                    record = {name: x[i] for name, x in encoded.items()}
                    writer.write({**record, "levels": levels[i], "tokens": tokens[i]})
                bar.update(len(clips))


def assemble(config, workdir: Path, progress: bool) -> None:
    """Copies the finished models into one folder that `gen1 edit` reads; whole or not at all."""
    from gen1_jax.weights.folder import replacing_folder

    sources = {**config.folders.to_dict(), "tokenizer": config.tokenizer}
    for name, source in sources.items():
        if not Path(source).is_dir():
            raise UserError(f"no {name} in {source}; train that part first")
    with replacing_folder(workdir, marker="gen1.json") as new:
        for name, source in sources.items():
            shutil.copytree(source, new / name)
        settings = json.dumps(config.settings.to_dict(), indent=2) + "\n"
        (new / "gen1.json").write_text(settings, encoding="utf-8")


def check_given(config, workdir: Path, progress: bool) -> None:
    """What comes from elsewhere: says how, where it is missing."""
    if not (workdir / config.holds).exists():
        raise UserError(f"no {config.holds} in {workdir}; it is made by: {config.made_by}")


def evaluate(config, workdir: Path, progress: bool) -> None:
    from gen1_jax.commands.evaluation import evaluate_world

    evaluate_world(config, workdir, progress)


def run_all(
    config, workdir: Path, load_part, progress: bool = True, parts: list[str] | None = None
) -> None:
    """All parts in order, each in `workdir/PART`; goes on where an earlier run was stopped.

    What the evaluation found stands in `workdir/metrics.json` too.
    """
    for part in parts or config.parts:
        started = time.perf_counter()
        run_part(load_part(part), workdir / part, progress)
        if (metrics := workdir / part / "metrics.json").exists():
            shutil.copyfile(metrics, workdir / metrics.name)
        tqdm.write(f"{part}: done in {time.perf_counter() - started:.0f} s")


KINDS = {
    "given": check_given,
    "world": make_world,
    "tokenizer": make_tokenizer,
    "train": train_model,
    "encode": encode,
    "pipeline": assemble,
    "evaluation": evaluate,
}
