"""`gen1 edit FOLDER --prompts FILE`: many videos, each whole or not there, by some processes.

gen1 edit clips --prompts prompts.jsonl -o edits
python launch/local.py --processes 2 -- gen1 edit clips … --processes 2
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen1_jax.commands.edit_like import record_of
from gen1_jax.commands.edit_progress import check_progress, events_file
from gen1_jax.errors import UserError, one_line

if TYPE_CHECKING:
    from gen1_jax.editing import VideoEditor
    from gen1_jax.evaluation.prompts.rows import Row

# What an entry of the prompt file may choose besides the prompt and the files.
CHOICES = {
    "seed": int, "structure_level": int, "temporal_scale": float, "guidance_scale": float,
    "strength": float, "steps": int, "solver": str, "negative_prompt": str,
}  # fmt: skip
REPORT = "report"
ENDED = {"ended": True}  # the last line of a report


def add_folder_arguments(parser) -> None:
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="edit many videos: INPUT is the folder where the paths of this JSONL or CSV start "
        '({"video": PATH, "prompt": TEXT}; also image, mask, start, frames, name, seed, '
        "structure_level and other controls), --output is a folder; the same command goes on where "
        "it was stopped",
    )


def check_folder(args) -> None:
    """Raises UserError if a flag says for one video what the prompt file says for each."""
    if not args.input or not args.input.is_dir():
        raise UserError(f"INPUT {args.input}: with --prompts it is the folder of the videos")
    given = [
        flag
        for flag, value in (
            ("--prompt", args.prompt), ("--image", args.image), ("--mask", args.mask),
            ("--like", args.like), ("--save-structure", args.save_structure),
            ("--variations", args.variations if args.variations > 1 else None),
            ("--preview-every", args.preview_every),
        )
        if value
    ]  # fmt: skip
    if given:
        raise UserError(f"{given[0]} is for one video; with --prompts the file says it for each")
    if args.output.suffix:
        raise UserError(f"--output {args.output}: with --prompts it is a folder, such as edits")
    check_progress(args)
    for path in events_file(args):
        if path.exists() and not args.overwrite:
            raise UserError(f"{path}: exists already; give another --events, or --overwrite")


def edit_folder(
    args,
    editor: "VideoEditor",
    edit_one: Callable[[argparse.Namespace], None],
    say: Callable[..., None],
    process: int,
) -> None:
    """Edits what this process has of the rows of a prompt file.

    Args:
      args: the flags, which hold for every row that does not choose otherwise.
      editor: the models.
      edit_one: makes the edit of one row's flags.
      say: tells programs what happens.
      process: number of this process, of `args.processes`.

    Raises:
      UserError: the prompt file cannot be read; or, at the end, some edits failed.
    """
    from gen1_jax.evaluation.prompts.reading import read_prompts
    from gen1_jax.files import making_folder

    prompts = read_prompts(args.prompts, root=args.input, keep_going=True, choices=CHOICES)
    for note in prompts.notes:
        print(note)
    counts = {"made": 0, "there": 0, "failed": 0}
    own = prompts.rows[process :: args.processes]
    report = report_path(args, process)
    with making_folder(args.output), report.open("w", encoding="utf-8") as file:
        meet(args, "begun")  # so that no report of an earlier run is taken for one of this

        def note(**row: Any) -> None:
            counts[row["status"]] += 1
            print(json.dumps(row), file=file, flush=True)
            say(**row)

        for line in prompts.left_out if process == 0 else ():
            note(name="", status="failed", error=line)
        for number, row in enumerate(own, start=1):
            print(f"[{number}/{len(own)}] {row.name}", flush=True)
            started, error = time.perf_counter(), {}
            try:
                one = _flags_of(args, row)
                status = "there" if _is_there(one, editor) else "made"
                if status == "made":
                    one.overwrite = True  # of this row, made with other flags or models
                    edit_one(one)
            except (UserError, OSError) as trouble:
                status, error = "failed", {"error": one_line(trouble)}
                print(f"gen1: {error['error']}", flush=True)
            seconds = round(time.perf_counter() - started, 3)
            said = {"video": row.video.name, "prompt": row.prompt}
            note(name=row.name, status=status, seconds=seconds, **said, **error)
        print(json.dumps(ENDED), file=file, flush=True)
    total = sum(counts.values())
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"{total} edits: {said or 'none'}; {report} lists them", flush=True)
    reports = [report_path(args, each) for each in range(args.processes)]
    while not all(map(has_ended, reports)):  # a process that ends takes the others with it
        time.sleep(0.5)
    rows = [json.loads(line) for each in reports for line in each.read_text("utf-8").splitlines()]
    failed = sum(row.get("status") == "failed" for row in rows)
    meet(args, "edited")
    if failed:  # of all processes, which end alike
        raise UserError(
            f"{failed} of {len(rows) - len(reports)} edits failed; {args.output}/{REPORT}*.jsonl "
            "says why"
        )


def report_path(args, process: int) -> Path:
    """Returns the file in which a process lists its edits."""
    ending = "" if args.processes == 1 else f"-{process:05d}"
    return args.output / f"{REPORT}{ending}.jsonl"


def has_ended(report: Path) -> bool:
    """Returns whether a process has listed the last of its edits."""
    return report.exists() and report.read_text(encoding="utf-8").endswith(json.dumps(ENDED) + "\n")


def meet(args, where: str) -> None:
    """Waits for the other processes of the job."""
    if args.processes > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def _flags_of(args, row: "Row") -> argparse.Namespace:
    """Returns the flags of one row.

    Raises:
      UserError: the row names a file that leads out of the folder, or a value is not accepted.
    """
    from gen1_jax.evaluation.prompts.lines import file_name
    from gen1_jax.evaluation.prompts.rows import inside

    one = argparse.Namespace(**vars(args))
    one.input = inside(args.input, row.video.name, "video")
    one.prompt = [row.prompt] if row.prompt.strip() else None
    for name in ("image", "mask"):
        named = getattr(row, name)
        path = inside(args.input, named.name, name) if named else None
        setattr(one, name, [path] if path and name == "image" else path)
    one.start = args.start if row.start is None else str(row.start)
    if row.frames is not None:
        one.frames, one.seconds = row.frames, None
    for name, value in _choices_of(row.entry, row.place).items():
        setattr(one, name, value)
    name, _, letters = row.name.partition("#")
    name = f"{Path(name).stem}_{letters}" if letters else name
    one.output = args.output / f"{file_name(name)}.mp4"
    one.no_preview, one.prompts, one.events = True, None, None
    return one


def _choices_of(entry: Mapping[str, Any], place: str) -> dict[str, Any]:
    found = {}
    for name, kind in CHOICES.items():
        value = entry.get(name)
        if value is None or value == "":
            continue
        try:
            found[name] = kind(value) if not isinstance(value, bool) else kind("")
        except (TypeError, ValueError):
            what = {int: "a whole number", float: "a number", str: "a text"}[kind]
            raise UserError(f"{place}: {name} is {value!r}; {what} is accepted") from None
    return found


def _is_there(one: argparse.Namespace, editor: "VideoEditor") -> bool:
    """Returns whether this very edit, by the same model, has been written."""
    from gen1_jax.editing.record import record_path
    from gen1_jax.files import read_json

    if not one.output.exists() or not one.input.exists():
        return False
    record, earlier = record_of(one, editor), read_json(record_path(one.output))
    return earlier is not None and all(earlier.get(key) == record[key] for key in record)
