"""The pairs of a study: one method's edit of a clip beside another's, from an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.evaluation.records import CLIP, CONTROLS, RUN, Record, read_all
from gen1_jax.settings import closest

_SETTING = (*CONTROLS, "seed", *RUN)
SOURCE = "source.mp4"  # in the folder of a clip's edits; see `evaluation.videos`


@dataclass(frozen=True)
class Pair:
    """Two edits of a clip.

    Attributes:
      clip: its name.
      video: what the clip was taken from. Clips of one video are not independent of each other.
      caption: what it should become.
      source: the video of its own frames.
      edits: method → the video of its edit: first ours, then the rival's.
    """

    clip: str
    video: str
    caption: str
    source: Path
    edits: Mapping[str, Path]


def find_pairs(
    results: Path,
    methods: Sequence[str] = (),
    folders: Mapping[str, Path] | None = None,
    where: Sequence[str] = (),
) -> tuple[list[Pair], list[str]]:
    """Returns the pairs of one method and each of the others, clip by clip.

    Args:
      results: folder of an evaluation.
      methods: the first is compared with each of the others; by default gen1, or else the first
        that the records name, with all others.
      folders: name → folder of further videos, one a clip: the clip's own name, or that of its
        video, with any suffix.
      where: `NAME=VALUE` or `METHOD:NAME=VALUE`, which choose among several settings of a method;
        by default the first counts.

    Returns:
      The pairs, and lines that say what was left out.

    Raises:
      UserError: there are no records or videos, or a method is not there.
    """
    records, notes = _records_with_videos(results)
    conditions = [_condition(text) for text in where]
    by_method = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    for name in folders or {}:
        if name in by_method:
            raise UserError(f"--folder {name}: {results} has a method of this name; give another")
    known = [*by_method, *(folders or {})]
    ours, rivals = _choose(methods, known, results)
    for method, _, _ in conditions:
        if method and method not in by_method:
            accepted = ", ".join(by_method)
            raise UserError(f"--where {method}: no such method in {results}; accepted: {accepted}")
    edits = {}
    for method in (ours, *rivals):
        if method in by_method:
            edits[method], said = _one_setting(method, by_method[method], conditions, results)
            notes += said
    clips = {}  # what all methods share of a clip → a record, for its name and its source
    for method in edits:
        for key, record in edits[method].items():
            clips.setdefault(key, record)
    for method in (ours, *rivals):
        if method not in edits:
            edits[method] = _in_folder(method, folders[method], clips)
    return _pair(results, ours, rivals, clips, edits, notes), notes


def _records_with_videos(results: Path) -> tuple[list[Record], list[str]]:
    records, torn = read_all(results)
    if not records:
        raise UserError(f"{results}: no records of `gen1 evaluate` there")
    shown = [r for r in records if r.get("output") and r.get("method")]
    if not shown:
        raise UserError(
            f"{results}: its records name no videos; `gen1 evaluate` without --no-videos"
        )
    missing = [r for r in shown if not (results / str(r["output"])).is_file()]
    if missing:
        raise UserError(
            f"{results}: {len(missing)} of {len(shown)} videos of the records are not there, such "
            f"as {missing[0]['output']}; the same `gen1 evaluate` again makes them"
        )
    notes = [f"{torn} unfinished lines of the records do not count"] if torn else []
    if len(shown) < len(records):
        notes.append(f"{len(records) - len(shown)} of {len(records)} records name no video")
    return shown, notes


def _choose(
    methods: Sequence[str], known: Sequence[str], results: Path
) -> tuple[str, Sequence[str]]:
    for name in methods:
        if name not in known:
            guess, accepted = closest(name, known), ", ".join(known)
            raise UserError(f"{results}: no edits of method {name!r}{guess}; accepted: {accepted}")
    first = "gen1" if "gen1" in known else known[0]
    chosen = list(dict.fromkeys(methods or [first, *known]))
    if len(chosen) < 2:
        raise UserError(
            f"{results}: only method {chosen[0]} is there to be compared; a study takes two or "
            "more (`gen1 evaluate --method`, or --folder NAME=DIR)"
        )
    return chosen[0], chosen[1:]


def _condition(text: str) -> tuple[str, str, object]:
    """Returns method, name and value of `[METHOD:]NAME=VALUE`; no method is ''."""
    place, equals, value = text.partition("=")
    method, _, name = place.rpartition(":")
    if not equals or name not in (*CONTROLS, "seed", "num_steps"):
        accepted = ", ".join((*CONTROLS, "seed", "num_steps"))
        raise UserError(f"--where {text}: [METHOD:]NAME=VALUE is accepted, NAME of {accepted}")
    try:
        return method, name, float(value)
    except ValueError:
        raise UserError(f"--where {text}: the value is a number") from None


def _one_setting(
    method: str, records: Sequence[Record], conditions: Sequence[tuple], results: Path
) -> tuple[dict[tuple, Record], list[str]]:
    """Returns the records of one setting of a method, by clip, and what to say of it."""
    for asked, name, value in conditions:
        if asked in ("", method) and any(name in record for record in records):
            there = sorted({str(r[name]) for r in records if name in r})
            records = [r for r in records if r.get(name) == value]
            if not records:
                raise UserError(
                    f"--where {name}={value:g}: {results} has no such edit of {method}; "
                    f"{name} is {', '.join(there)}"
                )
    settings = {}
    for record in records:
        setting = tuple((name, record[name]) for name in _SETTING if name in record)
        settings.setdefault(setting, {})[_clip_key(record)] = record
    (setting, chosen), *others = settings.items()
    said = ", ".join(f"{n} {v}" for n, v in setting if n in (*CONTROLS, "seed"))
    more = f"; {len(others)} other settings are left out (--where chooses)" if others else ""
    return chosen, [f"{method}: {said}{more}"] if others else []


def _clip_key(record: Record) -> tuple:
    return tuple(record.get(name) for name in CLIP)


def _in_folder(method: str, folder: Path, clips: Mapping[tuple, Record]) -> dict[tuple, Path]:
    """Returns the video of each clip in a folder of somebody else's results."""
    if not folder.is_dir():
        raise UserError(f"--folder {method}={folder}: no such folder")
    by_stem = {}
    for path in sorted(folder.iterdir()):
        if path.stem in by_stem and not path.name.startswith("."):
            raise UserError(f"{folder}: {path.name} and {by_stem[path.stem].name} are of one clip")
        by_stem[path.stem] = path
    found = {}
    for key, record in clips.items():
        names = (str(record["clip"]), Path(str(record.get("video", ""))).stem)
        path = next((by_stem[name] for name in names if name in by_stem), None)
        if path:
            found[key] = path
    if not found:
        name = Path(str(next(iter(clips.values()))["clip"])).name
        raise UserError(f"--folder {method}={folder}: no video is of a clip, such as {name}.mp4")
    return found


def _pair(
    results: Path,
    ours: str,
    rivals: Sequence[str],
    clips: Mapping[tuple, Record],
    edits: Mapping[str, Mapping[tuple, Record | Path]],
    notes: list[str],
) -> list[Pair]:
    def video(method: str, key: tuple) -> Path:
        found = edits[method][key]
        return found if isinstance(found, Path) else results / str(found["output"])

    pairs, wordless = [], 0
    for rival in rivals:
        alone = edits[ours].keys() ^ edits[rival].keys()
        if alone:
            notes.append(f"{len(alone)} clips have no edit of both {ours} and {rival}")
        for key, record in clips.items():
            if key not in edits[ours] or key not in edits[rival]:
                continue
            caption = str(record.get("prompt") or "").strip()
            if not caption:
                wordless += 1
                continue
            pairs.append(
                Pair(
                    clip=str(record["clip"]),
                    video=str(record.get("video", record["clip"])),
                    caption=caption,
                    source=(results / str(record["output"])).with_name(SOURCE),
                    edits={ours: video(ours, key), rival: video(rival, key)},
                )
            )
    if wordless:
        notes.append(f"{wordless} pairs of edits by picture have no caption to ask about")
    if not pairs:
        raise UserError(f"{results}: no clip has a caption and edits of {ours} and another method")
    return pairs
