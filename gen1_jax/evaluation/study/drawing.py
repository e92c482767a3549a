"""What a participant of a study is shown, in which order, and on which side.

All is drawn from the study's seed and the participant's id alone. The page draws it in page.js, and
the tally draws it again here; both must agree bit by bit, so both use one small hash.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

# A participant's id: a file's name and a spreadsheet's cell may hold it as it is.
PARTICIPANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_BITS = 0xFFFFFFFF


class Shown(NamedTuple):
    """A pair as a participant sees it.

    Attributes:
      pair: its id.
      left: which of its two videos stands left: a or b.
    """

    pair: str
    left: str


def mix(text: str) -> int:
    """Returns 32 bits of an ASCII text: FNV-1a, then the finaliser of MurmurHash3."""
    h = 2166136261
    for letter in text:
        h = (h ^ ord(letter)) * 16777619 & _BITS
    h = (h ^ h >> 16) * 0x85EBCA6B & _BITS
    h = (h ^ h >> 13) * 0xC2B2AE35 & _BITS
    return h ^ h >> 16


def draw(study: Mapping, participant: str) -> list[Shown]:
    """Returns all that a participant is shown, in order.

    The pairs of a study stand in a circle. Each participant judges `each` of them, one after
    another in it: participants 1, 2, 3, … begin where the one before ends, so all pairs get equally
    many judgements; another id begins at a place drawn from it. Half of what a participant sees has
    video a on the left.

    Args:
      study: `seed`, `each`, and the ids of `pairs` and of `checks`, each in the study's order.
      participant: the id.
    """
    seed, each, pairs = study["seed"], study["each"], list(study["pairs"])

    def rank(what: str, pair: str) -> tuple[int, str]:
        return mix(f"{seed}|{participant}|{what}|{pair}"), pair

    numbered = _NUMBER.fullmatch(participant)
    turn = int(participant) - 1 if numbered else mix(f"{seed}|{participant}|start")
    start = turn * each % len(pairs)
    shown = [pairs[(start + k) % len(pairs)] for k in range(min(each, len(pairs)))]
    shown += list(study["checks"])
    sides = sorted(shown, key=lambda pair: rank("side", pair))
    left = {pair: "ab"[place % 2] for place, pair in enumerate(sides)}
    return [Shown(p, left[p]) for p in sorted(shown, key=lambda pair: rank("order", pair))]
