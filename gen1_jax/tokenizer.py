"""CLIP's tokenizer: byte-pair encoding of lower-case bytes between a start and an end token.

A tokenizer folder has the public layout: either `tokenizer.json` or `vocab.json` with `merges.txt`,
and up to three files about special tokens. transformers reads it, ours as well as public ones, so
that every layout gives the ids that diffusers' users get.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import as_path, local_copy, read_json, replacing
from gen1_jax.text import check_text

if TYPE_CHECKING:  # imported only when a tokenizer is made, so that the command line starts fast
    import tokenizers
    import transformers

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
END_OF_WORD = "</w>"  # tells the last piece of a word from the same letters inside a word

# CLIP's words: the start and end tokens, English contractions, runs of letters, single digits, and
# runs of other characters.
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_CONTEXT_LENGTH = 77  # CLIP's, for a folder that does not say
# What tokenizer_config.json may call CLIP's tokenizer; the last two are names for any.
_KINDS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# While merges are learned, the last letter of a word is moved to here, a range where Unicode has no
# letters of its own.
_LAST = 0xE000


class Tokenizer:
    """Encodes texts as arrays of tokens.

    Attributes:
      context_length: l, the length of every encoded text.
      vocab_size: a number above every id.
      start_id, end_id: the ids of the start and the end token.
      pad_id: the id of the padding: that of the end token, or of "!" in Stable Diffusion 2.
    """

    def __init__(self, loaded: "transformers.CLIPTokenizer"):
        import tokenizers

        # A copy without transformers around it, which worker processes take over quickly.
        self._backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        self._backend.no_padding()  # the file may hold its own settings of padding and truncation
        self._backend.no_truncation()
        self.start_id, self.end_id = loaded.bos_token_id, loaded.eos_token_id
        self.pad_id = loaded.pad_token_id
        own = self._backend.get_vocab(with_added_tokens=False)
        for role, token in (("bos_token", loaded.bos_token), ("eos_token", loaded.eos_token)):
            if token not in own:  # transformers adds it
                raise UserError(
                    f"{role} {token!r} is not in the vocabulary; accepted: CLIP's layout"
                )
        # OpenAI's vocabulary has every byte; its unknown token, the end token, never occurs.
        unknown = loaded.unk_token_id
        self._unknown_id = None if unknown == self.end_id else unknown
        length = loaded.model_max_length
        # transformers says 1e30 if the folder gives no length.
        self.context_length = int(length) if length < 1e6 else _CONTEXT_LENGTH
        self.vocab_size = max(self._backend.get_vocab().values()) + 1
        # What may be wrong with texts, as said of one and of several; see `_encode`.
        limit = f"longer than {self.context_length - 2} tokens"
        self._troubles = (
            (f"is {limit} and loses its end", f"are {limit} and lose their ends"),
            (
                "has characters that the tokenizer does not know",
                "have characters that the tokenizer does not know",
            ),
        )
        self._num_captions, self._counts = 0, [0, 0]  # of `encode_captions`

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes each text as start, pieces…, end, padding….

        A text that is longer than the context loses its last pieces and keeps its end token. One
        warning counts such texts. Another warning counts texts with characters that the vocabulary
        lacks.

        Args:
          texts: b texts; an empty text gives start, end, padding….

        Returns:
          [b l] int32.

        Raises:
          UserError: `texts` is a single text, or one of them holds what is no Unicode.
        """
        tokens, found = self._encode(texts)
        for (one, many), shown in zip(self._troubles, found, strict=True):
            if shown and len(texts) == 1:
                warnings.warn(f"the text {one}: {shown[0]!r}", stacklevel=2)
            elif shown:
                said = f"{len(shown)} of {len(texts)} texts {many}; the first: {shown[0]!r}"
                warnings.warn(said, stacklevel=2)
        return tokens

    def encode_captions(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes some captions of a data set, of which there may be millions; see `encode`.

        A warning shows the first caption that does not fit. `count_troubles` counts all of them.
        """
        tokens, found = self._encode(texts)
        self._num_captions += len(texts)
        for i, ((one, _), shown) in enumerate(zip(self._troubles, found, strict=True)):
            if shown and not self._counts[i]:
                said = f"a caption {one}: {shown[0]!r}; others like it are counted, not shown"
                warnings.warn(said, stacklevel=2)
            self._counts[i] += len(shown)
        return tokens

    def count_troubles(self) -> list[str]:
        """Returns a line for each trouble that `encode_captions` met more than once."""
        return [
            f"{count:,} of {self._num_captions:,} captions {many}"
            for (_, many), count in zip(self._troubles, self._counts, strict=True)
            if count > 1
        ]

    def describe(self) -> str:
        """Returns as JSON what the tokens of a text follow from: every token's id, and the marks'.

        Two folders of one tokenizer, in whatever layout, give the same.
        """
        marks = (self.start_id, self.end_id, self.pad_id, self.context_length)
        return json.dumps([self._backend.get_vocab(), marks], sort_keys=True)

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, tuple[list[str], list[str]]]:
        """Returns the tokens, and for each of `_troubles` what is to be shown of texts with it."""
        if isinstance(texts, str):
            raise UserError(f"encode was given one text, {texts!r:.40}; accepted: a list of texts")
        room = self.context_length - 2
        tokens = np.full((len(texts), self.context_length), self.pad_id, np.int32)
        cut, unknown = [], []
        for row, text in zip(tokens, texts, strict=True):
            pieces = self._backend.encode(check_text(text, "a text"), add_special_tokens=False)
            if len(pieces.ids) > room:
                cut.append(text[pieces.offsets[room][0] :])
            if self._unknown_id in pieces.ids:
                unknown.append(text)
            ids = [self.start_id, *pieces.ids[:room], self.end_id]
            row[: len(ids)] = ids
        return tokens, (cut, unknown)


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer folder, ours or a public one of CLIP.

    Raises:
      UserError: there is no tokenizer, or it cannot be read.
    """
    # Without torch, importing transformers would say that models need it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    folder = local_copy(folder, "tokenizer.json", "vocab.json")
    whole, vocab, merges = (folder / n for n in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
        raise UserError(
            f"no tokenizer in {folder}; accepted: a folder with tokenizer.json, or with vocab.json "
            "and merges.txt"
        )
    kind = (read_json(folder / "tokenizer_config.json") or {}).get("tokenizer_class") or _KINDS[0]
    if kind not in _KINDS:
        raise UserError(f"{folder} holds a {kind}; accepted: a tokenizer of CLIP")
    try:
        loaded = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the libraries below raise nothing more specific
        raise UserError(
            f"cannot read the tokenizer in {folder}: {type(error).__name__}: {one_line(error)}"
        ) from error
    try:
        return Tokenizer(loaded)
    except UserError as error:
        raise UserError(f"cannot read the tokenizer in {folder}: {error}") from None


def train_tokenizer(
    captions: Iterable[str],
    folder: str | os.PathLike,
    vocab_size: int = 512,
    context_length: int = 32,
) -> Tokenizer:
    """Learns a CLIP-like tokenizer from captions and writes its folder.

    The ids are in this order: the letters, which are printable ASCII and the other characters of
    the captions; the same letters at the end of a word; the merges; the unknown, the start and the
    end token. So the end token has the largest id. The same captions give the same files, whatever
    their order.

    Args:
      captions: the texts to learn from.
      folder: the folder to write; it is made if it is missing. Files of an earlier tokenizer are
        replaced.
      vocab_size: the largest number of tokens; captions with little to merge give fewer.
      context_length: the length of encoded texts, with the start and the end token.

    Raises:
      UserError: there are no captions, a size is too small, or the folder cannot be written.
    """
    if context_length < 3:
        raise UserError(f"context_length is {context_length}; accepted: 3 or more")
    letters, merges = _learn_merges(captions, vocab_size)
    pieces = [*letters, *(letter + END_OF_WORD for letter in letters)]
    marks = [UNKNOWN, START, END]
    room = vocab_size - len(pieces) - len(marks)
    if room < 0:
        raise UserError(
            f"vocab_size is {vocab_size}; accepted: {vocab_size - room} or more for these captions"
        )
    merges = merges[:room]
    pieces += [first + second for first, second in merges]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*pieces, *marks]))}
    backend = _build(vocab, merges, UNKNOWN)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": UNKNOWN,
    }
    # The file that is entered last takes its place first. So tokenizer.json, by which a finished
    # tokenizer is known, comes last. If one file cannot be written, none takes its place.
    texts = {
        "tokenizer.json": backend.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges), ""]),
        "vocab.json": json.dumps(vocab, ensure_ascii=False),
    }
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            part = stack.enter_context(replacing(as_path(folder) / name))
            part.write_text(text, encoding="utf-8")
    return load_tokenizer(folder)


def _learn_merges(
    captions: Iterable[str], vocab_size: int
) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the letters (printable ASCII and those seen) and the merges, the commonest first.

    The library numbers letters with `</w>` in the order of a hash table, which would resolve ties
    differently in each run. Here the last letter of a word is a character of its own instead, so
    that the order is fixed.
    """
    import tokenizers

    split = _build({UNKNOWN: 0, START: 1, END: 2}, [], UNKNOWN)
    letters = {chr(i).lower() for i in range(ord("!"), ord("~") + 1)}

    def mark_words() -> Iterable[str]:
        for caption in captions:
            text = split.normalizer.normalize_str(caption)
            words = [word for word, _ in split.pre_tokenizer.pre_tokenize_str(text)]
            letters.update(*words)
            yield " ".join(word[:-1] + chr(_LAST + ord(word[-1])) for word in words)

    def unmark(piece: str) -> str:
        last = ord(piece[-1]) - _LAST
        return piece[:-1] + chr(last) + END_OF_WORD if last >= 0 else piece

    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False)
    learner.train_from_iterator(mark_words(), trainer)
    model = json.loads(learner.to_str())["model"]
    if not model["vocab"]:
        raise UserError("no captions to learn a tokenizer from; accepted: at least one word")
    return sorted(letters), [(unmark(first), unmark(second)) for first, second in model["merges"]]


def _build(
    vocab: dict[str, int], merges: list[tuple[str, str]], unknown: str
) -> "tokenizers.Tokenizer":
    """Returns a tokenizer with the steps of CLIP's around a vocabulary."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.BPE(vocab, merges, end_of_word_suffix=END_OF_WORD, unk_token=unknown))
    backend.add_special_tokens(list(dict.fromkeys([unknown, START, END])))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    start, end = ((token, backend.token_to_id(token)) for token in (START, END))
    backend.post_processor = processors.RobertaProcessing(
        end, start, trim_offsets=False, add_prefix_space=False
    )
    return backend
