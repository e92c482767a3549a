"""Captions: what is accepted as one, and a captioning model that writes one for a frame.

The model is any of transformers' that turn a picture into text, from a local folder: captioners
(BLIP, BLIP-2, GIT, a ViT with GPT-2), and models to chat with about a picture (LLaVA, Qwen-VL,
SmolVLM and others whose folder has a chat template).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError, one_line
from gen1_jax.evaluation.edit_prompts.local_models import Loaded, load_local, load_part
from gen1_jax.settings import show
from gen1_jax.text import check_text
from gen1_jax.video.io import read_video

ACCEPTED = (
    "accepted: a captioning model of transformers with its image processor and tokenizer, such as "
    "BLIP, BLIP-2, GIT or LLaVA"
)
QUESTION = "Describe this picture in one short sentence. Name the main subject and the place."
_LONGEST = 300  # letters; CLIP reads about that many
_MOST_TOKENS = 60


def check_caption(text: str, what: str = "the caption") -> str:
    """Returns a caption on one line, without spaces and a full stop at its end.

    Args:
      text: the caption, which may be anything: a model wrote it, or it comes from a file.
      what: what the error's line calls it.

    Raises:
      UserError: it is empty, too long, or holds what is no printable text.
    """
    line = " ".join(check_text(text, what).split()).rstrip(". ")
    if not line:
        raise UserError(f"{what} is empty")
    if len(line) > _LONGEST:
        raise UserError(f"{what} has {len(line)} letters; at most {_LONGEST} are accepted")
    if not line.isprintable():
        raise UserError(f"{what} holds what cannot be printed: {show(line)}")
    return line


def middle_frame(path: Path) -> np.ndarray:
    """Returns the frame in the middle of a video, `[H W 3]` uint8.

    Raises:
      UserError: the video cannot be read.
    """
    first = read_video(path, num_frames=1)
    start = (first.taken.total or 1) // 2
    while start:
        try:
            return read_video(path, num_frames=1, start=start).frames[0]
        except UserError:  # the file states more frames than it has
            start //= 2
    return first.frames[0]


class Captioner:
    """Writes captions.

    Attributes:
      name: its folder's name.
    """

    def __init__(self, folder: Path):
        """Loads the model.

        Raises:
          UserError: the folder holds none that is accepted, or torch is missing.
        """
        self._folder, self.name = folder, folder.resolve().name
        self._loaded: Loaded = load_local(
            folder, "--captioner", "AutoModelForImageTextToText", "AutoProcessor", ACCEPTED
        )
        # A chat needs all of the processor. A plain captioner begins with its own first token: a
        # text in front, which transformers' pipeline demands, would end what GIT says.
        self._chats = bool(getattr(self._loaded.processor, "chat_template", None))
        if not self._chats:
            parts = (load_part(folder, "--captioner", kind, ACCEPTED) for kind in _PLAIN)
            self._pictures, self._tokenizer = parts

    def __call__(self, frame: np.ndarray) -> str:
        """Returns what a frame shows, as the model says it.

        Args:
          frame: `[H W 3]` uint8.

        Raises:
          UserError: the model takes no picture without further inputs.
        """
        model, picture = self._loaded.model, Image.fromarray(frame)
        try:
            if self._chats:
                content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
                inputs = self._loaded.processor.apply_chat_template(
                    [{"role": "user", "content": content}],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                )
                begin, decode = inputs["input_ids"].shape[1], self._loaded.processor.decode
            else:
                inputs = self._pictures(images=picture, return_tensors="pt")
                begin, decode = 0, self._tokenizer.decode
            inputs = inputs.to(model.device, dtype=model.dtype)
            tokens = model.generate(**inputs, max_new_tokens=_MOST_TOKENS, do_sample=False)
            return decode(tokens[0, begin:], skip_special_tokens=True)
        except Exception as error:  # each model has errors of its own
            raise UserError(
                f"--captioner {self._folder} captions no picture: {one_line(error)}; {ACCEPTED}"
            ) from error


_PLAIN = ("AutoImageProcessor", "AutoTokenizer")
