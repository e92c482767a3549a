"""Edit prompts from captions by a language model, as the paper did with GPT-3.

What a model answers is untrusted text: an answer that is no edited caption is refused.
"""

import hashlib
import re
from pathlib import Path

from gen1_jax.errors import UserError, one_line
from gen1_jax.evaluation.edit_prompts.captions import check_caption
from gen1_jax.evaluation.edit_prompts.local_models import Loaded, load_local

ACCEPTED = (
    "accepted: a language model of transformers with its tokenizer, such as Llama, Qwen or GPT-2"
)
_TASK = (
    "Rewrite the caption of a video. Make the one change that is asked for, and keep all other "
    "words. Answer with the new caption alone, on one line."
)
_CHANGES = {
    "object": "another main subject, or another colour of it",
    "surface": "another material or texture of the main subject",
    "environment": "another place or background",
    "style": "another artistic style",
}
_SHOWN = ("a brown dog runs on the grass", "a man rides a bicycle down a street")
_EXAMPLES = {
    "object": ("a white fox runs on the grass", "a robot rides a bicycle down a street"),
    "surface": (
        "a brown dog made of clay runs on the grass",
        "a marble statue of a man rides a bicycle down a street",
    ),
    "environment": ("a brown dog runs on the moon", "a man rides a bicycle through a desert"),
    "style": (
        "a brown dog runs on the grass, watercolor painting",
        "a man rides a bicycle down a street, Japanese woodblock print",
    ),
}
_MARKUP = re.compile(r"[<>{}\[\]|\\^*_#=@`]|https?:|www\.")
_TALK = re.compile(r"(?:caption|answer|new caption|change|here is|here's|sure|okay|note)\b", re.I)
_SMALL = {"the", "and", "its", "are", "was"}  # beside words of one or two letters
_MOST_TOKENS = 80


class Refused(ValueError):
    """An answer is no edited caption; the text says why."""


def ask(caption: str, kind: str) -> str:
    """Returns the text that asks a model for a caption with one kind of change."""
    lines = [_TASK, ""]
    for shown, answer in zip(_SHOWN, _EXAMPLES[kind], strict=True):
        lines += [f"Caption: {shown}", f"Change: {_CHANGES[kind]}", f"New caption: {answer}", ""]
    return "\n".join([*lines, f"Caption: {caption}", f"Change: {_CHANGES[kind]}", "New caption:"])


def parse_answer(answer: str, caption: str) -> str:
    """Returns the prompt that an answer gives.

    Raises:
      Refused: the answer is more or less than one caption, or not an edit of this one.
    """
    text = re.sub(r"^new caption:", "", answer.strip(), flags=re.IGNORECASE).strip()
    if "\n" in text:
        raise Refused("has several lines")
    for quotes in ('""', "''", "“”"):
        if len(text) > 2 and text[0] == quotes[0] and text[-1] == quotes[1]:
            text = text[1:-1]
    try:
        text = check_caption(text, "the answer")
    except UserError as error:
        raise Refused(str(error).removeprefix("the answer ")) from None
    if _MARKUP.search(text):
        raise Refused("holds marks that are no words")
    if _TALK.match(text) or text.endswith((":", "?")):
        raise Refused("talks, and is no caption")
    old, new = (set(re.findall(r"\w+", words.lower())) for words in (caption, text))
    if text.lower() == caption.lower() or not new - old:
        raise Refused("changes nothing")
    old = {word for word in old if len(word) > 2} - _SMALL  # a preposition alone is not kept
    if len(old) > 1 and 3 * len(old & new) < len(old):
        raise Refused("keeps less than a third of the caption's words")
    return text


class Writer:
    """Writes edit prompts.

    Attributes:
      name: its folder's name.
    """

    def __init__(self, folder: Path):
        """Loads the model.

        Raises:
          UserError: the folder holds no language model, or torch is missing.
        """
        self._folder, self.name = folder, folder.resolve().name
        self._loaded: Loaded = load_local(
            folder, "--llm", "AutoModelForCausalLM", "AutoTokenizer", ACCEPTED
        )

    def answer(self, caption: str, kind: str, seed: str) -> str:
        """Returns what the model answers; equal seeds give equal answers on one machine.

        A model without a chat template goes on with another example after its answer, so that of
        such a model the first line counts.
        """
        import torch

        model, tokenizer = self._loaded
        chats, text = bool(tokenizer.chat_template), ask(caption, kind)
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big"))
        try:
            if chats:
                inputs = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}],
                    add_generation_prompt=True,
                    return_dict=True,
                    return_tensors="pt",
                    enable_thinking=False,  # of templates that know it
                )
            else:
                inputs = tokenizer(text, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            tokens = model.generate(
                **inputs.to(model.device),
                max_new_tokens=_MOST_TOKENS,
                do_sample=True,
                temperature=0.7,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        except Exception as error:  # each model has errors of its own
            raise UserError(
                f"--llm {self._folder} answers nothing: {one_line(error)}; {ACCEPTED}"
            ) from error
        new = tokens[0, inputs["input_ids"].shape[1] :]
        answer = tokenizer.decode(new, skip_special_tokens=True)
        return answer if chats else answer.strip().partition("\n")[0]
