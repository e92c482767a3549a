"""The parts of a config, each run by its kind: world, training, encoding, pipeline, evaluation."""

import re
import shutil
import time
from pathlib import Path

from tqdm import tqdm

from gen1_jax.config import resolve_paths
from gen1_jax.distributed import check_shared
from gen1_jax.errors import UserError


def run_part(config, workdir: Path, progress: bool = True, **options) -> None:
    """Runs a part in its folder; what is there and finished is not made again.

    `options` are those of the part's kind: `profile`, of training.

    Raises:
      UserError: bad settings, a part that this one needs is missing, or a folder that not all
        processes see.
    """
    if config.kind not in KINDS:
        raise UserError(f"a config of kind {config.get('kind')!r}; accepted: {', '.join(KINDS)}")
    workdir = Path(workdir)
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(workdir)):  # Path makes one of two slashes
        raise UserError(
            f"--workdir {workdir} is an address; a folder is accepted, such as a mounted bucket"
        )
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir} is a file; a folder is accepted")
    try:
        check_shared(workdir)
        KINDS[config.kind](resolve_paths(config, workdir), workdir, progress, **options)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}") from error


def make_world(config, workdir: Path, progress: bool) -> None:
    from gen1_jax.data_pipelines.moving_shapes.builder import build

    build(workdir, config.builder, progress=progress)


def make_tokenizer(config, workdir: Path, progress: bool) -> None:
    from gen1_jax.data_pipelines.moving_shapes.builder import load
    from gen1_jax.tokenizer import train_tokenizer

    if (workdir / "tokenizer.json").exists():
        return
    source = load(config.world, config.builder, "train")
    captions = (_text(source[i]["caption"]) for i in range(len(source)))
    train_tokenizer(captions, workdir, config.vocab_size, config.context_length)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def train_model(config, workdir: Path, progress: bool, profile: int = 0) -> None:
    from gen1_jax.data_pipelines.sources import make_stream, read_preview_batch
    from gen1_jax.tokenizer import load_tokenizer
    from gen1_jax.training.loop import train

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
        lambda: read_preview_batch(config.data),
        progress,
        profile,
    )


def encode(config, workdir: Path, progress: bool) -> None:
    from gen1_jax.precompute import encode

    encode(config, workdir, progress)


def assemble(config, workdir: Path, progress: bool) -> None:
    """Copies the finished models into one folder that `gen1 edit` reads; whole or not at all."""
    from gen1_jax.files import replacing_folder, write_json

    sources = {**config.folders.to_dict(), "tokenizer": config.tokenizer}
    for name, source in sources.items():
        if not Path(source).is_dir():
            raise UserError(f"no {name} in {source}; train that part first")
    with replacing_folder(workdir, marker="gen1.json") as new:
        for name, source in sources.items():
            shutil.copytree(source, new / name)
        write_json(new / "gen1.json", config.settings.to_dict())


def check_given(config, workdir: Path, progress: bool) -> None:
    """What comes from elsewhere: says how, where it is missing."""
    if not (workdir / config.holds).exists():
        raise UserError(f"no {config.holds} in {workdir}; it is made by: {config.made_by}")


def evaluate(config, workdir: Path, progress: bool) -> None:
    from gen1_jax.evaluation.world import evaluate_world

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
