"""Guidance: one call of three branches against three applications, in values and in FLOPs."""

from functools import partial

import numpy as np
import pytest
from tiny_unet import drawn_params, normal, quick_jit, tiny

from gen1_jax.diffusion.guidance import combine, guided_prediction
from gen1_jax.diffusion.structure import model_input

B, N = 2, 3
# The 12 input channels are latents, structure and level. No temporal weight is zero.
MODULE = tiny(in_channels=12)
PARAMS = drawn_params(MODULE)
Z, STRUCTURE = normal(0, B, N, 8, 8, 4), normal(1, B, N, 8, 8, 4)
T, LEVEL = np.array([40, 900]), np.array([0, 5])
CONTENT = normal(2, B, 2, 6)


def network(params, *args, **keywords):
    return MODULE.apply({"params": params}, *args, **keywords)


def guided_call(params, *args, per_frame=False):
    return guided_prediction(partial(network, params), *args, per_frame=per_frame)


def compiled(function, *args):
    """Returns (FLOPs, callable); the inputs are arguments, because constants would be folded."""
    program = quick_jit(function).lower(*args).compile()
    return program.cost_analysis()["flops"], program


@pytest.fixture(scope="module")
def guided():
    """Returns (FLOPs, function of ω_t [b] and ω [b])."""
    args = (PARAMS, Z, T, CONTENT, STRUCTURE, LEVEL)
    scales = np.zeros(B, np.float32)
    flops, program = compiled(guided_call, *args, scales, scales)

    def run(*scales):
        return program(*args, *(np.broadcast_to(s, B).astype(np.float32) for s in scales))

    return flops, run


@pytest.fixture(scope="module")
def single_passes():
    """Returns FLOPs and predictions of (video c, video ∅, image ∅, image c), each on its own."""
    inputs, null = np.asarray(model_input(Z, STRUCTURE, LEVEL)), np.zeros_like(CONTENT)
    args = (inputs, T, CONTENT)
    video_flops, video = compiled(network, PARAMS, *args)
    content = video(PARAMS, *args)
    without = video(PARAMS, *args[:2], null)
    # Each frame is an example of its own, and goes through the same parameters.
    frames = inputs.reshape(B * N, 1, *inputs.shape[2:])
    args = (frames, T.repeat(N), null.repeat(N, 0))
    image_flops, image = compiled(network, PARAMS, *args)
    seen = image(PARAMS, *args[:2], CONTENT.repeat(N, 0))
    predictions = (content, without, image(PARAMS, *args), seen)
    predictions = [np.asarray(x, np.float64).reshape(Z.shape) for x in predictions]
    return (video_flops, image_flops), predictions


@pytest.fixture
def parts(single_passes):
    return single_passes[1][:3]


def test_the_parts_are_three_different_things(parts):
    content, null, image = parts
    assert np.abs(content - null).mean() > 0.01 and np.abs(null - image).mean() > 0.01


@pytest.mark.parametrize(
    ("temporal_scale", "guidance_scale"),
    [(1.0, 1.0), (0.0, 0.0), (0.5, 7.5), (1.5, 3.0), ((0.0, 1.2), (4.0, 0.5)), (1.0, (2.0, 9.0))],
)
def test_one_call_is_three_applications(guided, parts, temporal_scale, guidance_scale):
    content, null, image = parts
    omega_t, omega = (
        np.broadcast_to(s, B).reshape(B, 1, 1, 1, 1) for s in (temporal_scale, guidance_scale)
    )
    want = image + omega_t * (null - image) + omega * (content - null)
    got = guided[1](temporal_scale, guidance_scale)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
def test_temporal_scale_one_is_plain_classifier_free_guidance(guided, parts, guidance_scale):
    content, null, _ = parts
    want = (1 - guidance_scale) * null + guidance_scale * content
    got = guided[1](1.0, guidance_scale)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_per_frame_every_frame_is_a_clip_of_its_own(single_passes):
    """No layer sees another frame, neither in the content's term, and two branches do it."""
    flops, (content, null, image, image_content) = single_passes
    args = (PARAMS, Z, T, CONTENT, STRUCTURE, LEVEL)
    scales = np.array([0.5, 1.5], np.float32), np.array([1.0, 7.5], np.float32)
    own, program = compiled(partial(guided_call, per_frame=True), *args, *scales)
    want = image + scales[1].reshape(B, 1, 1, 1, 1) * (image_content - image)
    got = program(*args, *scales)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert abs(own / (2 * flops[1]) - 1) < 0.01
    # ω_t = 0 is another thing: the content's term still sees the whole clip.
    assert np.abs((content - null) - (image_content - image)).mean() > 0.01


def test_scales_of_the_examples_do_not_mix(parts):
    scales = np.array([0.3, 1.7]), np.array([2.0, 6.0])
    together = combine(*parts, *scales)
    for i in range(B):
        alone = combine(*(p[i : i + 1] for p in parts), *(float(s[i]) for s in scales))
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6)


def test_without_structure_the_latents_alone_are_the_input():
    def record(sample, t, context, num_video_branches):
        assert num_video_branches == 2
        np.testing.assert_array_equal(sample, np.stack([Z] * 3, axis=1))
        np.testing.assert_array_equal(context[:, 0], CONTENT)
        assert (context[:, 1:] == 0).all()
        return sample

    # The network returns its input, so that all branches agree and guidance changes nothing.
    got = guided_prediction(record, Z, T, CONTENT, None, None, 0.4, 5.0)
    np.testing.assert_allclose(got, Z, atol=1e-6)


def test_the_image_branch_pays_nothing_for_temporal_layers(guided, single_passes):
    call, (video, image) = guided[0], single_passes[0]
    numbers = (
        f"guided call {call:.0f} FLOPs, video pass {video:.0f}, image pass {image:.0f}: "
        f"{call / (2 * video + image):.4f} of 2 video + 1 image, "
        f"{call / (3 * video):.4f} of 3 video"
    )
    assert abs(call / (2 * video + image) - 1) < 0.01, numbers
    assert call < 0.95 * 3 * video, numbers
    print(numbers)
