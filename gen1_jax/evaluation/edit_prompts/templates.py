"""Edit prompts from captions by templates: a word of the caption is swapped, the rest stays.

The words are in `words.yaml` beside this file. What is drawn follows from the seed, the video's
name and the kind of edit alone, so other videos change nothing.
"""

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence

from gen1_jax.evaluation.edit_prompts.words import Group, Word, Words, match_words

KINDS = ("object", "surface", "environment", "style")

_PLACE_BEGINS = (
    *("in", "on", "at", "through", "across", "over", "along", "near", "by", "beside", "inside"),
    *("under", "above", "into", "onto", "around", "against", "beneath", "between", "behind"),
)
# After a place that ends its phrase stands nothing, a mark, or one of these.
_PLACE_ENDS = (*_PLACE_BEGINS, "and", "with", "while", "as", "that", "during", "next", "to", "from")
_PICTURES = (
    *("photo", "photograph", "picture", "image", "painting", "drawing", "sketch", "illustration"),
    *("render", "rendering", "cartoon", "animation", "print", "shot", "view", "video", "film"),
    *("footage", "clip"),
)
# "a man taking a picture of a dog" begins with no style.
_STYLE = re.compile(
    rf"(?:an?\s+|the\s+)?(?:(?!an?\s|the\s|[\w-]*ing\s)[\w-]+\s+){{0,3}}(?:{'|'.join(_PICTURES)})"
    r"\s+of\s+",
    re.IGNORECASE,
)
_SOUNDS_A_VOWEL = re.compile(
    r"(?!uni(?![nm])|eu|one\b|once\b|us[aeu]|ut[ei])[aeiou]|hour|honest|heir"
)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The prompts of one kind that were drawn for a caption.

    Attributes:
      prompts: as many as were asked for, or all that there are.
      added: whether the caption names nothing of the kind, so that a phrase was added to it.
    """

    prompts: Sequence[str]
    added: bool = False


class Templates:
    """Draws edit prompts.

    Args:
      words: the word lists.
      seed: another seed draws other words.
    """

    def __init__(self, words: Words, seed: int = 0):
        self._words, self._seed = words, seed
        self._place = _place_pattern(words.places)
        self._makers = {
            "object": self._objects,
            "surface": self._surfaces,
            "environment": self._environments,
            "style": self._styles,
        }

    def draw(self, video: str, caption: str, kind: str, count: int = 1) -> Drawn:
        """Returns prompts of one kind, all different from the caption and from each other.

        Args:
          video: the video's name.
          caption: what the video shows.
          kind: one of `KINDS`.
          count: number of prompts.
        """
        chance = random.Random(f"{self._seed}\n{video}\n{kind}")
        options, added = self._makers[kind](caption)
        for texts in options:
            chance.shuffle(texts)
        chance.shuffle(options)
        # A prompt of each word that may change, before a second one of any.
        in_turn = itertools.chain.from_iterable(itertools.zip_longest(*options))
        different = dict.fromkeys(text for text in in_turn if text and text != caption)
        return Drawn(list(different)[:count], added and bool(different))

    # Each returns lists of prompts, one list for each word that may change, and whether a phrase
    # was added.

    def _objects(self, caption: str) -> tuple[list[list[str]], bool]:
        return list(_swaps(caption, self._words.object)), False

    def _surfaces(self, caption: str) -> tuple[list[list[str]], bool]:
        known = list(_swaps(caption, self._words.surface))
        if known:
            return known, False
        nouns = [found for found in match_words(caption, self._words.object) if found.word.plural]
        if not nouns:
            return [], False
        start = nouns[0].start
        words = [word.singular for group in self._words.surface for word in group.into]
        return [[_put(caption, start, start, f"{word} ") for word in dict.fromkeys(words)]], True

    def _environments(self, caption: str) -> tuple[list[list[str]], bool]:
        said = set(re.findall(r"\w+", caption.lower()))
        phrases = [p for p in self._words.environments if not said & _nouns(p, self._words.places)]
        spans = [found.span() for found in self._place.finditer(caption)]
        if not spans:
            return [[f"{caption} {phrase}" for phrase in phrases]], True
        (start, end), *others = spans
        rest = caption
        for first, last in reversed(others):
            rest = rest[:first].rstrip() + rest[last:]
        return [[_put(rest, start, end, phrase) for phrase in phrases]], False

    def _styles(self, caption: str) -> tuple[list[list[str]], bool]:
        found = _STYLE.match(caption)
        if found is None:
            return [[f"{caption}, {style}" for style in self._words.styles]], True
        rest = caption[found.end() :]
        texts = [f"{_article(style)} {style} of {rest}" for style in self._words.styles]
        return [[_capital(text, caption) for text in texts]], False


def _swaps(caption: str, groups: Sequence[Group]) -> Iterator[list[str]]:
    """Yields for each known word of a caption the prompts that have another in its place."""
    head = _STYLE.match(caption)  # "a black and white photo of" names no colour of an object
    places: dict[str, list] = {}
    for found in match_words(caption, groups):
        if head and found.start < head.end():
            continue
        places.setdefault(found.text.lower(), []).append(found)
    for found in places.values():
        first, texts = found[0], []
        for word in first.group.into:
            new = word.plural if first.is_plural else word.singular
            if not new or _holds(caption, word):
                continue
            text = caption
            for each in reversed(found):
                text = _put(text, each.start, each.end, new)
            texts.append(text)
        if texts:
            yield texts


def _holds(caption: str, word: Word) -> bool:
    forms = "|".join(re.escape(form) for form in (word.singular, word.plural) if form)
    return re.search(rf"(?<![\w-])(?:{forms})(?![\w-])", caption, re.IGNORECASE) is not None


def _nouns(phrase: str, places: Sequence[str]) -> set[str]:
    """Returns the places that a phrase names."""
    return set(re.findall(r"\w+", phrase.lower())) & {*places, "moon", "volcano"}


def _place_pattern(places: Sequence[str]) -> re.Pattern:
    """Returns the pattern of a phrase of place: "in the middle of a snowy forest"."""
    nouns = "|".join(sorted(map(re.escape, places), key=len, reverse=True))
    begins, ends = "|".join(_PLACE_BEGINS), "|".join(_PLACE_ENDS)
    within = rf"(?:(?!(?:{ends}|is|are)\b)[\w-]+\s+){{0,5}}?"
    return re.compile(
        rf"(?<![\w-])(?:{begins})\s+{within}(?:{nouns})(?:\s+(?:{nouns}))*"
        rf"(?=\s*(?:$|[.,;:!?])|\s+(?:{ends})\b)",
        re.IGNORECASE,
    )


# ---- grammar


def _put(text: str, start: int, end: int, new: str) -> str:
    """Returns a text with a new piece in place of `text[start:end]`, and the right article.

    The article is that right before the piece. A piece at the beginning has a capital letter if the
    text has one.
    """
    before, after = text[:start], text[end:]
    found = re.search(r"(?<![\w-])(an?)\s+$", before, re.IGNORECASE)
    if found:
        right = _article(new)
        right = right.capitalize() if found[1][0] == "A" else right
        before = before[: found.start(1)] + right + before[found.end(1) :]
    if start == 0 and text[:1].isupper():
        new = new[:1].upper() + new[1:]
        if end == 0:  # put in front of a word that began the text
            after = after[:1].lower() + after[1:]
    return before + new + after


def _article(word: str) -> str:
    """Returns the article that a word takes: a or an."""
    return "an" if _SOUNDS_A_VOWEL.match(word.lower()) else "a"


def _capital(text: str, like: str) -> str:
    return text[:1].upper() + text[1:] if like[:1].isupper() else text
