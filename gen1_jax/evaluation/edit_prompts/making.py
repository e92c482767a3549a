"""Videos → captions → a prompt file that `gen1 evaluate --prompts` reads.

What models say is kept beside the prompt file, a line each as soon as it is said, so that a command
that was stopped asks no model twice. The prompt file itself is written whole at the end.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from gen1_jax.data_pipelines.footage.inputs import Input, find_caption
from gen1_jax.errors import UserError
from gen1_jax.evaluation.edit_prompts.captions import Captioner, check_caption, middle_frame
from gen1_jax.evaluation.edit_prompts.local_models import letters_of
from gen1_jax.evaluation.edit_prompts.templates import Templates
from gen1_jax.evaluation.edit_prompts.writer import Refused, Writer, parse_answer
from gen1_jax.evaluation.records import append_records, read_records
from gen1_jax.files import replacing
from gen1_jax.text import check_text, name_of

_ATTEMPTS = 3  # questions to a language model for each prompt that is wanted


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A video and what it shows.

    Attributes:
      video: path of the video, relative to the folder of the prompt file.
      caption: what it shows, in words.
    """

    video: str
    caption: str


class Kept:
    """What models have said, in a file beside the prompt file.

    Args:
      path: the file.
      keys: names of what an answer follows from.
      value: name of the answer.
    """

    def __init__(self, path: Path, keys: Sequence[str], value: str):
        self._path, self._keys, self._value = path, keys, value
        records, _ = read_records(path)
        self._known = {tuple(r.get(key) for key in keys): r.get(value) for r in records}

    def get(self, make: Callable[[], str], **fields: str) -> str:
        """Returns the answer that follows from `fields`; if it is not known, makes and keeps it."""
        key = tuple(fields[name] for name in self._keys)
        if not isinstance(self._known.get(key), str):
            self._known[key] = make()
            append_records(self._path, [{**fields, self._value: self._known[key]}])
        return self._known[key]


# ---- captions


class Captioning:
    """Finds or makes the captions of videos.

    Args:
      output: the prompt file.
      folder: a captioning model for videos without a caption; None: these are errors.

    Attributes:
      given: number of captions that came with the videos.
      left_out: what could not be captioned, a line each.
    """

    def __init__(self, output: Path, folder: Path | None):
        self._output, self._folder = output, folder
        self._letters = letters_of(folder) if folder else ""
        self._kept = Kept(
            output.with_suffix(".captions.jsonl"), ("path", "captioner", "file"), "caption"
        )
        self._captioner: Captioner | None = None  # loaded for the first video that needs it
        self.given, self.left_out = 0, []

    def caption(
        self, root: Path, inputs: Iterable[Input], keep_going: bool, progress: bool
    ) -> list[Captioned]:
        """Returns the videos with their captions.

        Args:
          root: folder to which the paths of inputs are relative.
          inputs: the videos.
          keep_going: whether a video that cannot be read or captioned is left out.
          progress: whether to show a bar.

        Raises:
          UserError: a video cannot be read or captioned, or none can.
        """
        found = []
        bar = tqdm(
            list(inputs), desc="caption", unit="video", disable=not progress, dynamic_ncols=True
        )
        for each in bar:
            path = Path(os.path.normpath(root / each.path))
            try:
                found.append(self._caption(each, path))
            except _ModelFailed as error:
                raise UserError(str(error)) from error
            except UserError as error:
                if not keep_going:
                    raise
                self.left_out.append(str(error))
        if not found:
            reason = f": {self.left_out[0]}" if self.left_out else ""
            raise UserError(f"no video has a caption{reason}")
        return found

    def _caption(self, each: Input, path: Path) -> Captioned:
        if each.refused or not path.exists():
            raise UserError(f"{name_of(path)}: {each.refused or 'missing'}")
        video = Path(os.path.relpath(path, self._output.parent)).as_posix()
        check_text(video, "the path of a video")
        text = find_caption(path) if each.caption is None else each.caption
        if text:
            caption = check_caption(text, f"{path}: the caption")
            self.given += 1
        elif self._folder:
            said = self._kept.get(
                lambda: self._say(path), path=video, captioner=self._letters, file=letters_of(path)
            )
            caption = check_caption(said, f"{path}: the caption by {self._folder}")
        else:
            raise UserError(
                f"{path}: has no caption; --captioner FOLDER writes one, or give a manifest with "
                "`path` and `caption`, or a .txt file beside the video"
            )
        return Captioned(video, caption)

    def _say(self, path: Path) -> str:
        frame = middle_frame(path)
        try:
            self._captioner = self._captioner or Captioner(self._folder)
            return self._captioner(frame)
        except UserError as error:
            raise _ModelFailed(str(error)) from error


class _ModelFailed(Exception):
    """The model is to blame and not one video, so that no other video will do."""


# ---- prompts


class Prompting:
    """Makes edit prompts from captions, by templates or by a language model.

    Args:
      output: the prompt file.
      kinds: kinds of edit.
      each: prompts of each kind for a video.
      seed: another seed gives other prompts.
      templates: draws prompts; None: the model in `folder` writes them.
      folder: a language model.

    Attributes:
      notes: what was not as it might be, a line each.
    """

    def __init__(
        self,
        output: Path,
        kinds: Sequence[str],
        each: int,
        seed: int,
        templates: Templates | None,
        folder: Path | None = None,
    ):
        self._kinds, self._each, self._seed = kinds, each, seed
        self._templates, self._folder = templates, folder
        self._refused: list[str] = []
        self._asked = 0
        self._few = {kind: [] for kind in kinds}
        self._added = {kind: [] for kind in kinds}
        if folder:
            self._letters = letters_of(folder)
            keys = ("llm", "caption", "asked")
            self._kept = Kept(output.with_suffix(".answers.jsonl"), keys, "answer")
            self._writer: Writer | None = None  # loaded for the first question that is new

    def prompts(self, videos: Iterable[Captioned], progress: bool) -> list[dict[str, str]]:
        """Returns the lines of the prompt file.

        Args:
          videos: with their captions.
          progress: whether to show a bar.
        """
        lines = []
        videos = list(videos)
        for each in tqdm(
            videos, desc="prompts", unit="video", disable=not progress, dynamic_ncols=True
        ):
            said: dict[str, str] = {}  # prompt → kind
            for kind in self._kinds:
                # No two lines ask for the same, which `gen1 evaluate` refuses.
                new = [p for p in self._make(each, kind, frozenset(said)) if p not in said]
                said |= dict.fromkeys(new, kind)
                if len(new) < self._each:
                    self._few[kind].append(f"{each.video}: {each.caption}")
            lines += [
                {"video": each.video, "prompt": p, "source_prompt": each.caption, "kind": kind}
                for p, kind in said.items()
            ]
        if not lines:
            raise UserError("; ".join(self.notes(len(videos))) or "no video, so no prompts")
        return lines

    def notes(self, videos: int) -> list[str]:
        """Returns in words where templates did not fit, and which answers were refused."""
        found = []
        for kind in self._kinds:
            if few := self._few[kind]:
                found.append(
                    f"{kind}: {len(few)} of {videos} videos have fewer than {self._each} "
                    f"prompt{'s' if self._each > 1 else ''} (first: {few[0]})"
                )
            if added := self._added[kind]:
                found.append(
                    f"{kind}: {len(added)} of {videos} captions name nothing of this kind, and the "
                    f"prompts add it (first: {added[0]})"
                )
        if self._refused:
            reasons = collections.Counter(self._refused).most_common()
            said = ", ".join(f"{count} {reason}" for reason, count in reasons)
            found.append(f"{len(self._refused)} of {self._asked} answers are no prompts: {said}")
        return found

    def _make(self, each: Captioned, kind: str, said: frozenset[str]) -> Sequence[str]:
        if self._templates is None:
            return self._ask(each, kind, said)
        drawn = self._templates.draw(each.video, each.caption, kind, self._each)
        if drawn.added:
            self._added[kind].append(f"{each.video}: {each.caption}")
        return drawn.prompts

    def _ask(self, each: Captioned, kind: str, said: frozenset[str]) -> Sequence[str]:
        found: dict[str, None] = {}
        for attempt in range(self._each * _ATTEMPTS):
            if len(found) == self._each:
                break
            asked = f"{kind} {attempt} {self._seed} {each.video}"
            answer = self._kept.get(
                lambda asked=asked: self._write(each.caption, kind, asked),
                llm=self._letters,
                caption=each.caption,
                asked=asked,
            )
            self._asked += 1
            try:
                prompt = parse_answer(answer, each.caption)
                if prompt in found or prompt in said:
                    raise Refused("repeats another")
                found[prompt] = None
            except Refused as refused:
                self._refused.append(str(refused))
        return list(found)

    def _write(self, caption: str, kind: str, asked: str) -> str:
        self._writer = self._writer or Writer(self._folder)
        return self._writer.answer(caption, kind, asked)


def write_prompts(path: Path, lines: Iterable[dict[str, str]]) -> None:
    """Writes a prompt file, atomically.

    Raises:
      WritingFailed: the file cannot be written.
    """
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
