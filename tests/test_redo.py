"""Sections that are made anew: what they are, that they join, and that all else stays."""

from fractions import Fraction

import numpy as np
import pytest

from gen1_jax.editing.redo import merge_sections, read_section
from gen1_jax.errors import UserError

VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
OPTIONS = {"prompt": "a red ball", "steps": 2, "seed": 3, "window": 4, "overlap": 2}


def test_sections_are_read():
    assert read_section("2.0-3.5s", Fraction(24), 100) == (48, 84)
    assert read_section(".5s-1s", Fraction(10), 10) == (5, 10)
    assert read_section("48-84", None, 84) == (48, 84)
    assert read_section((3, 5), None, 9) == (3, 5)
    assert merge_sections([(8, 9), (0, 3), (2, 5), (5, 6)]) == ((0, 6), (8, 9))
    for section, words in (
        ("1-2s", "the frames have no rate"),
        ("5-3", "redo 5-3: ends before it begins"),
        ((2, 2), "redo 2-2: ends before it begins"),
        ("5-10", "redo 5-10: is beyond the end, which is at frame 9"),
        ("-2", "redo is '-2'; a section such as"),
        (7, "redo is 7; a section"),
    ):
        with pytest.raises(UserError, match=words):
            read_section(section, None, 9)
    with pytest.raises(UserError, match="redo 0.001-0.002s: holds no frame"):
        read_section("0.001-0.002s", Fraction(24), 9)


def test_all_but_the_sections_stays(editor, monkeypatch):
    first = editor.edit(VIDEO, **OPTIONS).frames
    sampler, sampled = editor._whole._sampler, []

    def sample(*arguments):
        sampled.append((arguments[7], type(sampler).sample(sampler, *arguments)))
        return sampled[-1][1]

    monkeypatch.setattr(sampler, "sample", sample)
    options = OPTIONS | {"seed": 4, "content_seed": 3, "earlier": first}
    edit = editor.edit(VIDEO, redo=[(3, 5)], **options)
    kept, z = sampled[0]
    # Windows begin at 0, 2, 4 (or 3) and 5: all frames are seen, two are made.
    assert kept.mask[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0][: len(z)]
    encoded = np.concatenate(list(editor._whole._pieces.encode(editor.params, edit.decoded, 4)))
    for index in (0, 2, 5):
        np.testing.assert_allclose(z[index], encoded[index], atol=1e-5)
    changed = (edit.frames != first).any((1, 2, 3))
    assert changed.tolist() == [False] * 3 + [True] * 2 + [False] * 4
    assert edit.sections == ((3, 5),)
    # With all frames anew it is an edit of its own.
    whole = editor.edit(VIDEO, redo=(0, 9), **options).frames
    np.testing.assert_array_equal(
        whole, editor.edit(VIDEO, **OPTIONS | {"seed": 4, "content_seed": 3}).frames
    )
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    both = editor.edit(VIDEO, redo=(3, 5), mask=mask, feather=0, **options).frames
    np.testing.assert_array_equal(both[~changed], first[~changed])
    np.testing.assert_array_equal(both[changed, 8:], VIDEO[changed, 8:])


def test_what_does_not_fit_is_refused(editor):
    for arguments, words in (
        ({"redo": (0, 1)}, "redo and earlier go together"),
        ({"earlier": VIDEO}, "redo and earlier go together"),
        ({"redo": (0, 1), "earlier": VIDEO[:5]}, "earlier: has 5 frames, and 9 are edited"),
        ({"redo": (0, 1), "earlier": "nowhere.mp4"}, "nowhere.mp4"),
        ({"redo": "0-1s", "earlier": VIDEO}, "the frames have no rate"),
        ({"content_seed": -1}, "seed -1"),
    ):
        with pytest.raises(UserError, match=words):
            editor.edit(VIDEO, **OPTIONS, **arguments)
