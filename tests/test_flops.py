"""Arithmetic counted from the program as written."""

import jax
import jax.numpy as jnp
import pytest

from gen1_jax.flops import count_flops
from gen1_jax.hardware import find_chip
from gen1_jax.models.unet import VideoUNet
from gen1_jax.weights.folder import param_template

X = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("function", "arguments", "flops"),
    [
        (lambda a, b: a @ b, [(4, 6), (6, 5)], 2 * 4 * 6 * 5),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(3, 4, 6), (3, 6, 5)], 3 * 2 * 4 * 6 * 5),
        (lambda a: jnp.sin(a) + a, [(4, 4)], 0),
        (lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, length=7)[0], [(4, 4)], 7 * 128),
        (jax.checkpoint(jax.jit(lambda a: a @ a)), [(4, 4)], 128),
        (lambda a: jax.lax.cond(True, lambda: a @ a, lambda: a), [(4, 4)], 128),
    ],
)
def test_products_in_every_wrapping(function, arguments, flops):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arguments]
    assert count_flops(function, *shapes) == flops


def test_a_strided_convolution():
    # Of 8 pixels in steps of 2: three windows of three, and a last that reaches beyond by one.
    assert count_flops(conv, X, KERNEL) == 2 * (2 * 5) * (11 * 11 * 3)


def test_the_paper_s_network_on_one_clip():
    """About 3.5 TFLOP forward on 8 frames of 448x256, 2.4 without its temporal layers."""
    for video_branches, wanted in ((None, 3.53e12), (0, 2.44e12)):
        unet = VideoUNet(in_channels=12)
        template = jax.eval_shape(lambda m=unet: param_template(m))
        arguments = (
            jax.ShapeDtypeStruct((1, 1, 8, 32, 56, 12), jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.int32),
            jax.ShapeDtypeStruct((1, 1, 1, 768), jnp.float32),
        )

        def apply(params, *inputs, m=unet, k=video_branches):
            return m.apply({"params": params}, *inputs, num_video_branches=k)

        assert count_flops(apply, template, *arguments) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("NVIDIA H100 80GB HBM3", 989e12)],
)
def test_chips_are_known_by_what_jax_calls_them(kind, flops):
    assert find_chip(kind).flops == flops and find_chip("cpu") is None
