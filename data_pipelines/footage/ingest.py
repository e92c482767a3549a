"""The steps of an ingest, from a folder of videos or images to a data set.

    list → chunks (Beam: read, cut, filter, encode) → duplicates (Beam) → shards (Beam) → report

The list, the settings and the chunks are in `DATA/.ingest_clips` until all is done, so an ingest
that was killed continues where it was. `DATA/clips/1.0.0` has its name only once it is whole, and
`report.json` is written last. A later ingest of other inputs adds to the data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from gen1_jax.data_pipelines.footage import contents, history
from gen1_jax.data_pipelines.footage import report as reports
from gen1_jax.data_pipelines.footage.chunks import Job, is_done, make_chunk
from gen1_jax.data_pipelines.footage.clips import ClipSettings
from gen1_jax.data_pipelines.footage.groups import Group, cut_groups, write_list
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.inputs import find_inputs
from gen1_jax.data_pipelines.footage.outcomes import REASONS
from gen1_jax.data_pipelines.footage.runner import LOCAL, Runner
from gen1_jax.errors import UserError, one_line
from gen1_jax.files import read_json, write_json
from gen1_jax.text import name_of

_FORMAT = 2  # format of chunks; an ingest of another format cannot be resumed
_SOURCE = {"inputs", "fingerprint", "against"}  # what may differ between ingests into one folder


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of an ingest.

    Attributes:
      report: the content of `report.json`.
      fresh: whether anything was done.
    """

    report: dict
    fresh: bool


def ingest(
    source: str | Sequence[str],
    data_dir: Path,
    settings: ClipSettings | ImageSettings,
    *,
    validation_fraction: float = 0.01,
    against: Sequence[Path] = (),
    allow_outside: bool = False,
    runner: Runner = LOCAL,
    progress: bool = True,
) -> Result:
    """Makes the clips or the images of a data set, or adds to those that are there.

    What is added gets shards of its own. What is there keeps its place and its split.

    Args:
      source: folder, glob, file or manifest, or several; see `inputs.find_inputs`.
      data_dir: folder of the data set.
      settings: settings of clips or of images; their type says which of the two is made.
      validation_fraction: share of the inputs whose records go to the validation split.
      against: other data sets; what they hold is dropped as a duplicate.
      allow_outside: whether a manifest may name files outside its own folder.
      runner: where Beam's pipelines run.
      progress: whether to show a bar.

    Raises:
      UserError: there is nothing to ingest or nothing of use; the folder holds something else or
        cannot be written; another ingest works on it; or it was begun or made with other settings.
    """
    kind = "images" if isinstance(settings, ImageSettings) else "clips"
    out, work = data_dir / kind, data_dir / f".ingest_{kind}"
    if not 0 <= validation_fraction < 1:
        raise UserError(f"--validation-fraction {validation_fraction}: 0 to below 1 is accepted")
    for folder in against:
        history.check_data(folder)
    own = [out, *(each.parent for each in data_dir.glob(f"*/{reports.REPORT}"))]
    sources = [source] if isinstance(source, str) else source
    root, inputs = find_inputs(
        *sources, frame_folders=kind == "clips", without=own, allow_outside=allow_outside
    )
    with _work_folder(work):
        listed = write_list(root, inputs, work / "inputs.new")
        if not listed.count:
            wanted = "videos" if kind == "clips" else "images"
            raise UserError(f"{' '.join(sources)}: holds no files; accepted: a folder of {wanted}")
        asked = {
            "format": _FORMAT,
            "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
            "validation_fraction": validation_fraction,
            "inputs": listed.count,
            "fingerprint": listed.fingerprint,
            "against": [name_of(os.path.abspath(folder)) for folder in against],
        }
        done = read_json(out / reports.REPORT)
        begun = read_json(work / "asked.json")
        if begun is not None:
            how = f"use the same, or remove {work} to start anew"
            _check_same(asked, begun, f"an ingest into {out} was begun", how)
        rounds = [] if done is None else done.get("rounds", [done])
        if any(not _changes(asked, each["asked"]) for each in rounds):
            shutil.rmtree(work)
            return Result(done, fresh=False)
        if done is not None:
            what = f"{out} holds {kind} made"
            _check_same(asked, done["asked"], what, "give another --out", but=_SOURCE)
        elif begun is None and out.exists() and any(out.iterdir()):
            raise UserError(f"{out}: holds something else already; give another --out")
        os.replace(work / "inputs.new", work / "inputs.jsonl")
        if begun is None:
            _begin(work, asked, out, done, history.find_known(data_dir, kind, against))

        where = str(root.absolute())
        before = tuple(str(history.place(out, n).absolute()) for n in range(len(rounds)))
        if not all((Path(folder) / contents.NAME).is_file() for folder in before):
            raise UserError(
                f"{out}: its history is not there, so it cannot grow; give another --out"
            )
        job = Job(str(work.absolute()), where, settings, validation_fraction, before)
        groups = cut_groups(job.inputs, listed, kind)
        numbers = read_json(work / "built.json")
        if numbers is None:
            _make_chunks(job, groups, runner, kind, progress)
            numbers = _make_data_set(job, kind, len(groups), data_dir, runner)
            if numbers is None:
                shutil.rmtree(work)
                return Result(done, fresh=False)
            reports.write_inputs(job, len(groups), reports.inputs_file(out, len(rounds)))
            write_json(work / "built.json", numbers)
        history.keep(job, len(groups), history.place(out, len(rounds)))
        this = {"kind": kind, "source": name_of(where), **numbers, "asked": asked}
        report = reports.add_up([*rounds, this])
        reports.write_report(report, out)
        shutil.rmtree(work)
    return Result(report, fresh=True)


def _begin(work: Path, asked: dict, out: Path, done: dict | None, known: Sequence[Path]) -> None:
    """Notes what an ingest was asked for, and what was there when it began."""
    from gen1_jax.data_pipelines.footage.growth import note_info

    if done is not None:
        note_info(out, work, done)
    write_json(work / "known.json", {"prints": [str(path.absolute()) for path in known]})
    write_json(work / "asked.json", asked)


def _make_chunks(
    job: Job, groups: Sequence[Group], runner: Runner, kind: str, progress: bool
) -> None:
    todo = [group for group in groups if not is_done(job, group.index)]
    if todo:
        with _bar(job, len(groups), kind, progress):
            runner.each(todo, make_chunk, job)


def _make_data_set(
    job: Job, kind: str, num_chunks: int, data_dir: Path, runner: Runner
) -> dict | None:
    """Drops duplicates and writes the shards.

    Returns:
      The numbers of the report, or None if all inputs are there already.
    """
    from gen1_jax.data_pipelines.footage.builders import build
    from gen1_jax.data_pipelines.footage.duplicates import resolve
    from gen1_jax.data_pipelines.footage.growth import append
    from gen1_jax.data_pipelines.footage.kinship import unite_kin

    known = [Path(path) for path in read_json(Path(job.work) / "known.json")["prints"]]
    if not all(job.chunk(index, ".final.json").exists() for index in range(num_chunks)):
        resolve(job, num_chunks, runner, known)
    if kind == "clips":
        unite_kin(job, num_chunks, known)
    numbers = reports.count(job, num_chunks)
    if not numbers["records"] and not job.before:
        shutil.rmtree(job.work)
        why = "; ".join(
            f"{number} {reason} ({REASONS[reason]})"
            for reason, number in numbers["dropped"].items()
        )
        raise UserError(f"none of {numbers['inputs']} inputs gives {kind}: {why}")
    if numbers["dropped"] == {"there already": numbers["inputs"]}:
        return None
    if job.before:
        append(data_dir / kind, job, num_chunks, runner)
    else:
        build(kind, data_dir, job, num_chunks, runner)
    return numbers


@contextlib.contextmanager
def _work_folder(work: Path) -> Iterator[None]:
    """Holds the work folder for this process, and removes it if there is nothing to resume.

    The folders above it are removed too if they were made for it and hold nothing else.
    """
    made = [place for place in work.parents if not os.path.exists(place)]
    try:
        (work / "parts").mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {work}: {one_line(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{work.parent}: another ingest is at work on it") from error
        try:
            yield
        finally:
            if work.exists() and not (work / "asked.json").exists():
                shutil.rmtree(work)
            with contextlib.suppress(OSError):  # not empty
                for place in made:
                    place.rmdir()


def _check_same(asked: dict, before: dict, what: str, how: str, but: Collection[str] = ()) -> None:
    """Raises UserError naming what differs between this ingest and an earlier one."""
    if changes := _changes(asked, before, but):
        raise UserError(f"{what} with other settings: {'; '.join(changes)}; {how}")


def _changes(asked: dict, before: dict, but: Collection[str] = ()) -> list[str]:
    """Returns what differs between this ingest and an earlier one, passing over some keys."""
    now, then = ({**each, **each["settings"]} for each in (asked, before))
    changes = [
        f"{key} {then.get(key)} then, {now[key]} now"
        for key in now
        if key not in ("settings", "fingerprint", *but) and now[key] != then.get(key)
    ]
    if not changes and not but and asked["fingerprint"] != before["fingerprint"]:
        changes = ["other inputs or captions"]
    return changes


@contextlib.contextmanager
def _bar(job: Job, total: int, kind: str, progress: bool) -> Iterator[None]:
    """Shows a bar of the finished chunks, whichever process or machine writes them."""
    stop = threading.Event()

    def watch(bar: tqdm, done: Callable[[], int]) -> None:
        while not stop.wait(0.5):
            bar.update(done() - bar.n)
        bar.update(done() - bar.n)

    def done() -> int:
        names = os.listdir(job.chunks)
        return sum(name.endswith(".json") and name[0] != "." for name in names)

    with tqdm(
        total=total, initial=done(), desc=f"reading {kind}", unit="group", disable=not progress,
        dynamic_ncols=True,
    ) as bar:  # fmt: skip
        watcher = threading.Thread(target=watch, args=(bar, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
