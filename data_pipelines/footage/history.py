"""What a finished data set keeps of each ingest into it, so that it can grow and be compared with.

DATA/clips/history/000/, a folder for each ingest, holds
  NNNNNN.final.json, NNNNNN.prints    outcomes of a chunk's inputs, and prints of its records
  contents.npy                        sorted numbers of the contents of all inputs that were read
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from gen1_jax.data_pipelines.footage import contents
from gen1_jax.data_pipelines.footage.chunks import Job
from gen1_jax.data_pipelines.footage.duplicates import read_final
from gen1_jax.data_pipelines.footage.outcomes import UNWANTED
from gen1_jax.errors import UserError
from gen1_jax.files import read_json

KINDS = ("clips", "images")


def place(folder: Path, number: int) -> Path:
    """Returns where a folder of clips or images keeps what it needs of an ingest into it."""
    return folder / "history" / f"{number:03d}"


def find_prints(data_dir: Path, kind: str) -> list[Path]:
    """Returns the files of prints of all clips or images of a data set, in a fixed order."""
    return sorted((data_dir / kind).glob("history/[0-9]*/[0-9]*.prints"))


def find_known(data_dir: Path, kind: str, against: Sequence[Path]) -> list[Path]:
    """Returns the files of prints with which new clips or images are compared.

    They are those of the data set and of others. Images are compared with frames of clips too. A
    clip is not dropped because one of its frames is an image.
    """
    kinds = ("clips", "images") if kind == "images" else ("clips",)
    folders = (data_dir, *against)
    return [path for folder in folders for each in kinds for path in find_prints(folder, each)]


def notes(data_dir: Path, kind: str) -> list[str]:
    """Returns a line if the clips and the images of a data set were not compared."""
    if kind == "clips" and find_prints(data_dir, "images"):
        return ["the images there were not compared with these clips: ingest clips before images"]
    if kind == "images" and (data_dir / "clips").is_dir() and not find_prints(data_dir, "clips"):
        return ["the clips there have no prints, so the images were not compared with them"]
    return []


def check_data(data_dir: Path) -> None:
    """Raises UserError for a folder without prints that others can be compared with."""
    if not any(find_prints(data_dir, kind) for kind in KINDS):
        raise UserError(
            f"--against {data_dir}: no clips or images with prints; accepted: a folder that "
            "`gen1 ingest` of this version has finished"
        )


def read_outcomes(prints: Path) -> list[dict]:
    """Returns the outcomes of the chunk whose prints a file holds."""
    return read_json(prints.with_suffix(".final.json"))["outcomes"]


def keep(job: Job, num_chunks: int, folder: Path) -> None:
    """Moves what the data set keeps of a job's chunks to a folder, unless it is there."""
    if folder.exists():
        return
    contents.write(_contents(job, num_chunks), job.chunks)
    kept = (".final.json", ".prints", contents.NAME)
    for file in os.scandir(job.chunks):
        if not file.name.endswith(kept) or file.name.startswith("."):
            os.unlink(file)
    folder.parent.mkdir(exist_ok=True)
    os.replace(job.chunks, folder)


def _contents(job: Job, num_chunks: int) -> Iterator[str]:
    for _, final in read_final(job, num_chunks):
        for outcome in final["outcomes"]:
            # What could not be read may be another time: with a codec, or with more memory.
            known = outcome["kept"] or UNWANTED.keys() & outcome["dropped"].keys()
            if outcome["content"] and known:
                yield outcome["content"]
