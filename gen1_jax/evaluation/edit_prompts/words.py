"""The word lists of the templates: how their file is read, and where a caption has their words."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.evaluation.prompts.documents import read_document
from gen1_jax.settings import show

WORDS = Path(__file__).with_name("words.yaml")
# Up to two adjectives stand between the article and the noun.
_IS_ONE = re.compile(r"(?<![\w-])(?:an?|one|the|this|that)\s+(?:[\w-]+\s+){0,2}$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Word:
    """A word; an adjective has no plural."""

    singular: str
    plural: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """Words that captions hold, and those that may take their place."""

    words: tuple[Word, ...]
    into: tuple[Word, ...]


@dataclasses.dataclass(frozen=True)
class Words:
    """What a file of words holds.

    Attributes:
      object: groups of nouns and of colours.
      surface: groups of materials.
      places: nouns by which a phrase of place is known.
      environments: phrases of place.
      styles: kinds of picture, such as "oil painting".
    """

    object: tuple[Group, ...]
    surface: tuple[Group, ...]
    places: tuple[str, ...]
    environments: tuple[str, ...]
    styles: tuple[str, ...]


def read_words(path: Path = WORDS) -> Words:
    """Reads a YAML file in the form of `words.yaml`.

    Raises:
      UserError: it cannot be read, or is not in that form.
    """
    document = read_document(path)
    if document.kind != "yaml":
        raise UserError(f"{path}: is no YAML; a file in the form of {WORDS.name} is accepted")
    try:
        content = _keys(document.content, "the file", ("object", "surface", "environment", "style"))
        environment = _keys(content["environment"], "environment", ("places", "into"))
        style = _keys(content["style"], "style", ("into",))
        return Words(
            object=_groups(content["object"], "object"),
            surface=_groups(content["surface"], "surface"),
            places=_texts(environment["places"], "environment: places"),
            environments=_texts(environment["into"], "environment: into"),
            styles=_texts(style["into"], "style: into"),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _keys(value: Any, what: str, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise UserError(f"{what} is {show(value)}; accepted are the keys {', '.join(names)}")
    return value


def _groups(value: Any, what: str) -> tuple[Group, ...]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{what} is {show(value)}; a list of groups is accepted")
    groups = []
    for entry in value:
        if not isinstance(entry, Mapping) or not {"words"} <= set(entry) <= {"words", "into"}:
            raise UserError(f"{what}: {show(entry)}; words and into are accepted")
        words = _words(entry["words"], what)
        groups.append(Group(words, _words(entry["into"], what) if "into" in entry else words))
    return tuple(groups)


def _words(value: Any, what: str) -> tuple[Word, ...]:
    return tuple(Word(*map(str.strip, text.split("/", 1))) for text in _texts(value, what))


def _texts(value: Any, what: str) -> tuple[str, ...]:
    good = isinstance(value, list) and value
    if not good or not all(isinstance(x, str) and x.strip() and x.isprintable() for x in value):
        raise UserError(f"{what}: {show(value)}; a list of words is accepted")
    return tuple(value)


# ---- words in a caption


@dataclasses.dataclass(frozen=True)
class Found:
    """A known word in a caption, at `caption[start:end]`."""

    text: str
    start: int
    end: int
    group: Group
    word: Word
    is_plural: bool


def match_words(caption: str, groups: Sequence[Group]) -> Iterator[Found]:
    """Yields the known words of a caption in their order; of "polar bear" and "bear" the longer."""
    known: dict[str, tuple[Group, Word, bool]] = {}
    for group in groups:
        for word in group.words:
            known[word.singular.lower()] = (group, word, False)
            if word.plural:
                known[word.plural.lower()] = (group, word, True)
    forms = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    for found in re.finditer(rf"(?<![\w-])(?:{forms})(?![\w-])", caption, re.IGNORECASE):
        group, word, is_plural = known[found[0].lower()]
        if word.singular == word.plural:  # "a large deer", or "deer"
            is_plural = not _IS_ONE.search(caption, 0, found.start())
        yield Found(found[0], *found.span(), group, word, is_plural)
