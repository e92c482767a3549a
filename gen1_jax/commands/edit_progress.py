"""How `gen1 edit` shows how far it is: a bar, JSON lines for programs, and previews."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gen1_jax.errors import UserError, one_line

if TYPE_CHECKING:
    from gen1_jax.editing.events import Event


def add_progress_arguments(parser) -> None:
    parser.add_argument(
        "--events",
        metavar="PATH|-",
        help="also write how far the edit is, as a JSON object a line, for programs; - is the "
        "standard output, where nothing else stands then",
    )
    parser.add_argument(
        "--preview-every",
        type=int,
        metavar="K",
        help="after every K-th step write what some frames have become into OUT_steps.png",
    )
    parser.add_argument("--quiet", action="store_true", help="show no bar")


def check_progress(args) -> None:
    """Raises UserError if a flag has a value that is not accepted."""
    if args.preview_every is not None and args.preview_every < 1:
        raise UserError(f"--preview-every {args.preview_every}; 1 or more is accepted")
    if args.processes > 1 and args.events not in (None, "-"):
        raise UserError("--events PATH is one process's; with --processes give --events -")


class Bar:
    """One bar at a time: the stage's name, how far it is, and the time left."""

    def __init__(self):
        self._bar, self._stage = None, None

    def __call__(self, event: "Event") -> None:
        from tqdm import tqdm

        if self._stage != event.stage or not event.done:
            self.close()
            self._stage = event.stage
            self._bar = tqdm(
                total=event.total, desc=event.stage, dynamic_ncols=True, leave=False,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
                "[{elapsed}, {remaining} left]",
            )  # fmt: skip
        self._bar.update(event.done - self._bar.n)
        if event.done >= event.total:
            self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class JsonLines:
    """Writes what happens as JSON objects, a line each, as soon as it happens."""

    def __init__(self, file: IO[str]):
        self._file, self._started = file, time.perf_counter()

    def __call__(self, event: "Event") -> None:
        left = None if event.left is None else round(event.left, 3)
        self.say(stage=event.stage, done=event.done, total=event.total, left=left)

    def say(self, **what: Any) -> None:
        """Writes a line."""
        seconds = round(time.perf_counter() - self._started, 3)
        print(json.dumps({"seconds": seconds, **what}), file=self._file, flush=True)


@contextlib.contextmanager
def reporting(args) -> Iterator[tuple[list[Callable], Callable[..., None]]]:
    """Yields the listeners that the flags ask for, and `say(**what)` for what is no stage.

    However the block ends, the last line of the events says so.
    """
    bar = None if args.quiet or not sys.stderr.isatty() else Bar()
    with contextlib.ExitStack() as stack:
        lines = None
        if args.events:
            lines = JsonLines(_open(args.events, stack))
            if args.events == "-":  # what is said to people is no JSON
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield [each for each in (bar, lines) if each], lines.say if lines else _silent
        except BaseException as error:
            if lines:
                stopped = isinstance(error, KeyboardInterrupt)
                lines.say(ended="stopped" if stopped else "failed", error=one_line(error))
            raise
        finally:
            if bar:
                bar.close()


def events_file(args) -> list[Path]:
    """Returns the file that --events writes, if it is one: pipes and devices may exist."""
    path = Path(args.events or "-")
    return [] if args.events in (None, "-") or (path.exists() and not path.is_file()) else [path]


def _open(path: str, stack: contextlib.ExitStack) -> IO[str]:
    if path == "-":
        return sys.stdout
    try:
        return stack.enter_context(open(path, "w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--events {path} cannot be written: {one_line(error)}") from error


def _silent(**what: Any) -> None:
    """Says nothing."""


def preview_writer(args, output: Path) -> Callable[[int, Callable[[], Any]], None] | None:
    """Returns what writes frames after every so many steps, or None without the flag."""
    if args.preview_every is None:
        return None
    from gen1_jax.video.pictures import contact_sheet, save_image

    path = steps_path(output)

    def write(number: int, decode: Callable[[], Any]) -> None:
        if number % args.preview_every == 0:
            frames = decode()
            save_image(path, contact_sheet([{f"step {number}": frames}], len(frames)))

    return write


def steps_path(output: Path) -> Path:
    """Returns OUT_steps.png for OUT.mp4."""
    return output.with_name(f"{output.stem}_steps.png")
