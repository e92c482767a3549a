"""Makes a study: a static page that asks which of two videos shows a caption better, and its key.

    DIR/page/     to publish or to open: index.html and videos, whose names tell nothing
    DIR/key.json  to keep: which video is whose, for `gen1 study tally`

The page needs no server and no network; its policy forbids the browser to ask for anything else
than its own videos. The two videos of a pair are named by digests of their content and stand in the
order of these names, so neither a name nor a place tells the method.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gen1_jax.errors import UserError
from gen1_jax.evaluation.study.drawing import mix
from gen1_jax.evaluation.study.media import Videos, digest, too_large
from gen1_jax.evaluation.study.pairs import Pair
from gen1_jax.files import replacing_folder, write_json
from gen1_jax.text import check_text

# The question of the paper's user study, section 4.2.
QUESTION = "Which video better represents the provided edited caption?"
TITLE = "Comparing edited videos"
KEY, PAGE = "key.json", "page"


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
      id: of the study.
      pairs: number of pairs.
      each: number of them that a participant judges, without checks.
      size: of the page with its videos, in bytes.
      notes: lines that say what was left out, or differs between the videos of a pair.
    """

    id: str
    pairs: int
    each: int
    size: int
    notes: list[str]


def make_study(
    pairs: Sequence[Pair],
    folder: Path,
    *,
    seed: int = 0,
    each: int | None = None,
    checks: int = 3,
    most_bytes: float = 1e9,
    question: str = QUESTION,
    title: str = TITLE,
) -> Made:
    """Writes a study into a folder, completely or not at all.

    Args:
      pairs: what to compare.
      folder: new, empty, or of an earlier study, which it replaces.
      seed: of the order, the sides and the checks. The same pairs and seed give the same study.
      each: pairs that a participant judges; None: all.
      checks: attention checks that every participant sees beside them: an edit against noise.
      most_bytes: of the page with its videos.
      question: what is asked of every pair.
      title: of the page.

    Raises:
      UserError: a video cannot be read, the page is larger than `most_bytes`, or a number or a text
        is not accepted.
    """
    for name, text in {"question": question, "title": title}.items():
        check_text(text, f"--{name}")
    with replacing_folder(folder, KEY) as new:
        videos = Videos(new / PAGE / "videos", most_bytes)
        shown, key = _number(pairs, videos, seed)
        if not shown:
            raise UserError("no pair is left: the edits of each are equal")
        each = min(each or len(shown), len(shown))
        chosen = sorted(shown, key=lambda p: mix(f"{seed}|check|{p['id']}"))[:checks]
        if len(chosen) < checks:
            raise UserError(f"--checks {checks}; the study has {len(shown)} pairs to make them of")
        tested, right = _make_checks(chosen, key, videos, seed)
        study = {"seed": seed, "each": each, "title": title, "question": question}
        study |= {"pairs": shown, "checks": tested}
        study["id"] = _id("s", json.dumps(study, sort_keys=True))
        page = _page(study)
        (new / PAGE / "index.html").write_text(page, encoding="utf-8")
        size = videos.size + len(page.encode())
        if size > most_bytes:
            raise UserError(too_large(most_bytes))
        write_json(
            new / KEY,
            {
                "study": study["id"],
                "seed": seed,
                "each": each,
                "question": question,
                "ours": next(iter(pairs[0].edits)),
                "pairs": {pair["id"]: key[pair["id"]] for pair in shown},
                "checks": right,
            },
        )
        notes = _notes(pairs, shown, videos)
    return Made(study["id"], len(shown), each, size, notes)


def _number(pairs: Sequence[Pair], videos: Videos, seed: int) -> tuple[list[dict], dict]:
    """Returns the pairs as the page has them, in the order of the circle, and the key of each."""
    shown, key = [], {}
    for pair in pairs:
        check_text(pair.caption, f"the caption of {pair.clip}")
        source = videos.add(pair.source)
        rate = videos.rate(source)
        by_name = {videos.add(path, rate): method for method, path in pair.edits.items()}
        if len(by_name) < 2:  # equal to the bit: nothing to choose
            continue
        a, b = sorted(by_name)
        number = _id("p", pair.clip, pair.caption, source, a, b)
        while number in key:  # two rivals made the same video
            number = _id("p", number)
        shown.append({"id": number, "caption": pair.caption, "source": source, "a": a, "b": b})
        key[number] = {
            "clip": pair.clip,
            "video": pair.video,
            "caption": pair.caption,
            "a": by_name[a],
            "b": by_name[b],
        }
    return sorted(shown, key=lambda pair: mix(f"{seed}|circle|{pair['id']}")), key


def _id(letter: str, *parts: str) -> str:
    """Returns an id of a content. The letter keeps spreadsheets from reading it as a number."""
    return letter + digest("\0".join(parts).encode())


def _make_checks(
    chosen: Sequence[dict], key: dict, videos: Videos, seed: int
) -> tuple[list[dict], dict]:
    """Returns the checks as the page has them, and which video of each is the right choice."""
    checks, right = [], {}
    for pair in chosen:
        edit = pair["a"] if mix(f"{seed}|good|{pair['id']}") % 2 else pair["b"]
        a, b = sorted((edit, videos.add_noise_like(edit, mix(f"{seed}|noise|{pair['id']}"))))
        number = _id("p", pair["id"], a, b)
        checks.append({**pair, "id": number, "a": a, "b": b})
        right[number] = {"clip": key[pair["id"]]["clip"], "right": "a" if a == edit else "b"}
    return checks, right


def _notes(pairs: Sequence[Pair], shown: Sequence[dict], videos: Videos) -> list[str]:
    notes = []
    if equal := len(pairs) - len(shown):
        notes.append(f"{equal} pairs are left out: their two edits are equal")
    for what in ("seconds", "shape"):
        unlike = [p for p in shown if videos.look(p["a"])[what] != videos.look(p["b"])[what]]
        if unlike:
            seen = " and ".join(str(videos.look(unlike[0][side])[what]) for side in "ab")
            notes.append(
                f"the two edits of {len(unlike)} pairs differ in {what}, such as {seen} "
                f"({unlike[0]['caption'][:60]}): participants can tell the methods apart by it"
            )
    return notes


# ---- the page


def _page(study: dict) -> str:
    """Returns the page, one file: all but its videos is inside, and allowed by its digest alone.

    Texts are data here: JSON without the letter that could end its element.
    """
    style, script = _part("page.css"), _part("page.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_allowed(script)}",
            f"style-src {_allowed(style)}",
            "media-src 'self' file:",  # 'self' is no file in every browser
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {
        "policy": html.escape(policy),
        "title": html.escape(study["title"]),
        "style": style,
        "script": script,
        "study": json.dumps(study, ensure_ascii=False).replace("<", "\\u003c"),
    }
    # One pass: a caption may hold what looks like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _allowed(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
