"""Edits with a mask: inside is edited; outside, the source stays, in latents and in pixels."""

import numpy as np
import pytest

from gen1_jax.errors import UserError
from gen1_jax.video.io import write_video

VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
MASK = np.zeros((9, 16, 16), bool)
MASK[:, 4:10, 6:12] = True
OPTIONS = {"prompt": "a red ball", "steps": 2, "seed": 3, "window": 4, "overlap": 2}


def test_the_source_stays_outside(editor, monkeypatch):
    sampler, sampled = editor._whole._sampler, []

    def sample(*arguments):
        sampled.append((arguments[7], type(sampler).sample(sampler, *arguments)))
        return sampled[-1][1]

    monkeypatch.setattr(sampler, "sample", sample)
    edit = editor.edit(VIDEO, mask=MASK, feather=2, **OPTIONS)
    kept, z = sampled[0]
    outside = kept.mask[..., 0] == 0
    assert outside.sum() == 9 * (64 - 25)  # cells of two pixels that hold any of the edit
    np.testing.assert_array_equal(z[outside], kept.source[outside])
    encoded = editor._whole._pieces.encode(editor.params, edit.streams.source, 4)
    np.testing.assert_array_equal(np.concatenate(list(encoded)), kept.source)
    assert np.abs(z - kept.source)[~outside].mean() > 0.1
    around = np.zeros_like(MASK)
    around[:, 2:12, 4:14] = True
    np.testing.assert_array_equal(edit.frames[~around], VIDEO[~around])
    decoded = edit.decoded.array()
    np.testing.assert_array_equal(edit.frames[MASK], decoded[MASK])
    assert (decoded[MASK] != VIDEO[MASK]).mean() > 0.9


def test_all_of_it_is_an_edit_without_a_mask(editor):
    plain = editor.edit(VIDEO, **OPTIONS)
    with pytest.warns(UserWarning, match="all of it is edited"):
        masked = editor.edit(VIDEO, mask=np.zeros((16, 16)), invert_mask=True, **OPTIONS)
    np.testing.assert_array_equal(plain.frames, masked.frames)


def test_the_result_has_the_source_s_own_pixels(editor, tmp_path):
    film = np.random.default_rng(1).integers(0, 256, (9, 40, 64, 3), np.uint8)
    write_video(tmp_path / "film", film, 24)
    left = np.zeros((40, 64), bool)
    left[:, :32] = True
    for fit, part in (("crop", np.s_[:, :, 12:52]), ("pad", np.s_[:])):
        footage = editor.open(tmp_path / "film", size=(16, 16), fit=fit)
        edit = editor.edit(footage, mask=left, **OPTIONS)
        made, own = edit.at("source").array(), film[part]
        half = own.shape[2] // 2
        np.testing.assert_array_equal(made[:, :, half + 9 :], own[:, :, half + 9 :])
        assert (made[:, :, :half] != own[:, :, :half]).mean() > 0.9
        assert edit.at((20, 20)).array().shape == (9, 20, 20, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"invert_mask": True}, "invert_mask and feather need a mask"),
        ({"feather": 2}, "invert_mask and feather need a mask"),
        ({"mask": MASK, "invert_mask": 1}, "invert_mask is 1; True or False"),
        ({"mask": MASK, "feather": -1}, "feather -1; a width of 0 pixels or more"),
        ({"mask": MASK, "feather": "2"}, "feather '2'; a width"),
        ({"mask": MASK[:5]}, "mask: has 5 frames; accepted are 9, one for each frame that is"),
        ({"mask": MASK[:, :8]}, "mask: is 8×16 .*; the shape of 16×16 is accepted"),
        ({"mask": "nowhere.png"}, "nowhere.png: no such file"),
    ],
)
def test_wrong_masks_are_refused(editor, arguments, words):
    with pytest.raises(UserError, match=words):
        editor.edit(VIDEO, **OPTIONS, **arguments)
