"""Tests the FLOPs that are counted from a program as it is written."""

import jax
import jax.numpy as jnp
import pytest

from gen1_jax.flops import count_flops, count_training_flops
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
    # 8 pixels in steps of 2: three windows of three pixels, and a last that reaches one beyond.
    assert count_flops(conv, X, KERNEL) == 2 * (2 * 5) * (11 * 11 * 3)


def training_flops(loss, trained=True):
    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return count_training_flops(loss, trained, {"a": shape, "b": shape}, shape) / 128


@pytest.mark.parametrize(
    ("trained", "products"),
    [
        (True, 2 + 3),  # the first layer's input needs no gradient
        ({"a": False, "b": True}, 1 + 2),  # nothing before b does
        ({"a": True, "b": False}, 2 + 2),  # b needs none, but what comes before it does
        ({"a": False, "b": False}, 1 + 1),
    ],
)
def test_training_costs_each_product_once_more_for_each_operand_with_a_gradient(trained, products):
    assert training_flops(lambda p, x: (x @ p["a"]) @ p["b"], trained) == products


def test_training_counts_loops_and_stops_where_the_gradient_does():
    def loop(p, x):  # the carry depends on the parameters from the second turn on
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, p["a"]), None), x, length=5)[0]

    assert training_flops(loop) == 5 * 3
    assert training_flops(lambda p, x: jax.lax.stop_gradient(p["a"]) @ p["b"]) == 2


def test_the_branch_for_all_other_platforms_counts():
    def product(a):
        return jax.lax.platform_dependent(a, cpu=lambda a: a @ a @ a, default=lambda a: a @ a)

    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    assert count_flops(product, shape) == 128
    assert count_flops(lambda a: jax.lax.cond(True, lambda: a, lambda: a @ a), shape) == 128


def by_hand(n: int, height: int, width: int, channels: int, temporal: bool) -> int:
    """Returns the FLOPs of Stable Diffusion 1.5's UNet on n frames with one content token.

    The function sums the multiply-adds of each layer by formula. Along an axis of length l a 3x3
    convolution reads 3l − 2 places, because the outer taps at both ends read padding.
    """
    widths, d = (320, 640, 1280, 1280), 768
    places = [(height >> i, width >> i) for i in range(4)]

    def conv3(c_in, c_out, level):
        h, w = places[level]
        return n * c_in * c_out * (3 * h - 2) * (3 * w - 2)

    def residual(c_in, c, level):
        h, w = places[level]
        total = conv3(c_in, c, level) + conv3(c, c, level) + n * 1280 * c  # timestep
        total += (c_in != c) * n * h * w * c_in * c
        return total + temporal * 2 * (3 * n - 2) * h * w * c * c

    def attention(c, level):
        tokens = places[level][0] * places[level][1]
        # proj_in, proj_out; q, k, v, out; gated feed-forward of 4 c; the one token's value and out
        spatial = tokens * c * c * (2 + 4 + 12) + 2 * tokens * tokens * c + d * c + c * c
        over_time = tokens * (c * c * (2 + 4 + 12) + 2 * n * c)
        return n * (spatial + temporal * over_time)

    total = 320 * 1280 + 1280 * 1280 + conv3(channels, 320, 0) + conv3(320, 4, 0)
    skips, c_in = [320], 320
    for level, c in enumerate(widths):
        for _ in range(2):
            total += residual(c_in, c, level) + (level < 3) * attention(c, level)
            c_in = c
            skips.append(c)
        if level < 3:  # with stride 2 only the first output of each axis reads padding
            h, w = places[level + 1]
            total += n * c * c * (3 * h - 1) * (3 * w - 1)
            skips.append(c)
    total += 2 * residual(1280, 1280, 3) + attention(1280, 3)
    for level in (3, 2, 1, 0):
        c = widths[level]
        for _ in range(3):
            total += residual(c_in + skips.pop(), c, level) + (level < 3) * attention(c, level)
            c_in = c
        if level:
            total += conv3(c, c, level - 1)
    return 2 * total


@pytest.mark.parametrize("temporal", [True, False])
def test_the_paper_s_network_on_one_clip(temporal):
    """8 frames of 448x256 take 3.42 TFLOP forward, and 2.34 without temporal layers."""
    wanted = by_hand(8, 32, 56, 12, temporal)
    assert wanted == pytest.approx(3.42e12 if temporal else 2.34e12, rel=0.005)
    unet = VideoUNet(in_channels=12)
    template = jax.eval_shape(lambda: param_template(unet))
    arguments = (
        jax.ShapeDtypeStruct((1, 8, 32, 56, 12), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
        jax.ShapeDtypeStruct((1, 1, 768), jnp.float32),
    )

    def apply(params, *inputs):
        branches = None if temporal else 0
        return unet.apply({"params": params}, *inputs, num_video_branches=branches)

    assert count_flops(apply, template, *arguments) == wanted


@pytest.mark.parametrize(
    ("kind", "flops"),
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("NVIDIA H100 80GB HBM3", 989e12)],
)
def test_chips_are_known_by_what_jax_calls_them(kind, flops):
    assert find_chip(kind).flops == flops and find_chip("cpu") is None
