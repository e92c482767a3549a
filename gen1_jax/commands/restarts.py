"""Whether a job that a launcher starts again and again still gets anywhere.

A launcher (launch/README.md) sets GEN1_START, the number of this start, from 0 on. It starts the
job again after every exit code but 0, EXIT_BAD_INPUT and EXIT_GIVEN_UP. The work folder remembers
at which start something new was last found there. All processes of a job therefore decide alike,
without speaking to each other, before anything that may fail.
"""

import os
from pathlib import Path

from gen1_jax.errors import GivenUp, UserError, WritingFailed
from gen1_jax.files import as_path, read_json, write_json

START, RESTARTS = "GEN1_START", "GEN1_RESTARTS"
RECORD = "starts.json"
# In ten restarts, a slice that is away is waited for ten times the --join-timeout.
DEFAULT_RESTARTS = 10
# A finished part leaves one of the first three; an ingested or encoded folder has shards.
_FINISHED = ("finished.json", "meta.json", "metrics.json", "*.array_record", "*.records")


def is_restarted() -> bool:
    """Returns whether a launcher started this process, and will do so again."""
    return START in os.environ


def check_restarts(args) -> None:
    """Gives a job up that was started too often without making anything; does nothing elsewhere.

    Args:
      args: of the command. All restarts of one without a work folder count.

    Raises:
      GivenUp: more than GEN1_RESTARTS starts in a row found nothing new in the work folder.
      UserError: a variable is no number.
    """
    folder = getattr(args, "workdir", None)
    if not is_restarted():
        return
    start, most = _number(START, 0), _number(RESTARTS, DEFAULT_RESTARTS)
    if folder is None:
        if start > most:
            raise GivenUp(f"started {start} times again, and {RESTARTS} is {most}; look at the log")
        return
    folder = as_path(folder)
    made, record = describe_made(folder), folder / RECORD
    known = read_json(record) or {"made": {}, "start": 0}
    if known.get("made") != made or known.get("start", 0) > start:
        known = {"made": made, "start": start}
        if made:
            try:
                write_json(record, known)
            except WritingFailed:  # the next start tries again
                pass
    if (again := start - known["start"]) > most:
        raise GivenUp(
            f"started {again} times since the newest checkpoint in {folder}, and {RESTARTS} is "
            f"{most}; look at what ended the starts before, then give the command again"
        )


def describe_made(folder: Path) -> dict[str, int]:
    """Returns what a work folder holds: part → its newest step, and its finished files.

    The parts are the folder itself and its subfolders, down to the third: `gen1 all` encodes
    footage to `encoded/clips/train`.
    """
    made: dict[str, int] = {}
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        for path in folder.glob(f"{depth}checkpoints/[0-9]*"):
            if path.name.isdecimal():
                part = path.parent.relative_to(folder).as_posix()
                made[part] = max(made.get(part, -1), int(path.name))
        for pattern in _FINISHED:
            for path in folder.glob(f"{depth}{pattern}"):
                part = path.parent.relative_to(folder).as_posix()
                if not path.name.startswith("."):
                    key = f"{part}/{pattern}"
                    made[key] = made.get(key, 0) + 1
    return dict(sorted(made.items()))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"{name} is {text!r}; accepted: a number, 0 or more")
    return int(text)
