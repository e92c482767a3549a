"""Faults in the diffusion process, structure, guidance, the prior and the UNet, for mutants.py."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault.

    Attributes:
      name: the room, and what is wrong there.
      old: text that stands once in the packages.
      new: text that takes its place.
      tests: the test files that should fail, separated by spaces.
    """

    name: str
    old: str
    new: str
    tests: str


PROCESS, STRUCTURE = "tests/diffusion/test_process.py", "tests/diffusion/test_structure.py"
GUIDANCE, SAMPLER = "tests/diffusion/test_guidance.py", "tests/diffusion/test_sampler.py"
PRIOR = "tests/diffusion/test_prior_diffusion.py"
UNET = "tests/models/test_unet.py tests/models/test_unet_parity.py"
ATTENTION, LAYERS = "tests/models/test_attention.py", "tests/models/test_layers.py"
CLIP = "tests/models/test_clip.py"

MUTANTS = (
    # ---- the diffusion process
    Mutant(
        "diffusion: β is linear instead of √β",
        "np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2",
        "np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)",
        PROCESS,
    ),
    Mutant(
        "diffusion: the sign of z_0 in v", "return a * eps - s * z0", "return a * eps + s * z0",
        PROCESS,
    ),
    Mutant(
        "diffusion: the sign of z_t in ε from v",
        "a * prediction + s * zt", "a * prediction - s * zt", PROCESS,
    ),
    Mutant(
        "diffusion: z_0 from ε without its division",
        "return (zt - s * prediction) / a, prediction", "return zt - s * prediction, prediction",
        PROCESS,
    ),
    Mutant(
        "diffusion: zero terminal SNR moves the first step",
        "root = (root - root[-1]) * root[0] / (root[0] - root[-1])", "root = root - root[-1]",
        PROCESS,
    ),
    Mutant(
        "diffusion: DDIM ends at ᾱ_1",
        "z0, eps, jnp.maximum(t_next, 0)", "z0, eps, jnp.maximum(t_next, 1)", PROCESS,
    ),
    Mutant(
        "diffusion: leading timesteps without their offset",
        "[::-1] * stride + offset", "[::-1] * stride", PROCESS,
    ),
    Mutant(
        "diffusion: trailing timesteps round down",
        "np.round(ends).astype(int) - 1", "np.floor(ends).astype(int) - 1", PROCESS,
    ),
    # ---- structure
    Mutant(
        "structure: depth is normalised by frame, not by clip",
        "low = depth.min((1, 2, 3), keepdims=True)", "low = depth.min((2, 3), keepdims=True)",
        STRUCTURE,
    ),
    Mutant(
        "structure: other taps of the blur",
        "np.array([1, 4, 6, 4, 1]) / 16", "np.array([1, 2, 3, 2, 1]) / 9", STRUCTURE,
    ),
    Mutant(
        "structure: columns are not blurred",
        "blur_matrices(depth.shape[3]))[level]", "blur_matrices(depth.shape[3]))[0 * level]",
        STRUCTURE,
    ),
    Mutant(
        "structure: one wave in the embedding of a level",
        "jnp.asarray([1.0, 0.25])", "jnp.asarray([1.0, 1.0])", STRUCTURE,
    ),
    # ---- guidance and sampling
    Mutant(
        "guidance: the temporal term has content",
        "temporal * (video_null - image_null)", "temporal * (video_content - image_null)",
        GUIDANCE,
    ),
    Mutant(
        "guidance: null content is ones",
        "null = jnp.zeros_like(content)", "null = jnp.ones_like(content)", GUIDANCE,
    ),
    Mutant(
        "guidance: the image branch has temporal layers",
        "num_video_branches=2,", "num_video_branches=3,", GUIDANCE,
    ),
    Mutant(
        "sampler: strength rounds down",
        "max(1, round(strength * num_steps))", "max(1, int(strength * num_steps))", SAMPLER,
    ),
    Mutant(
        "sampler: the network is told where a step lands",
        "denoise(z, jnp.broadcast_to(t, z.shape[:1]))",
        "denoise(z, jnp.broadcast_to(row.landing, z.shape[:1]))",
        SAMPLER,
    ),
    # ---- the prior's process
    Mutant(
        "prior: the last step does not end clean",
        "np.append(alpha_bars[timesteps[1:]], one)",
        "np.append(alpha_bars[timesteps[1:]], alpha_bars[0])",
        PRIOR,
    ),
    Mutant(
        "prior: guidance starts from the text",
        "return x0_null + guidance_scale * (x0_text - x0_null)",
        "return x0_text + guidance_scale * (x0_text - x0_null)",
        PRIOR,
    ),
    Mutant(
        "prior: twice the clamp",
        "jnp.clip(x0, -clamp, clamp)", "jnp.clip(x0, -2 * clamp, 2 * clamp)", PRIOR,
    ),
    Mutant(
        "prior: captions are kept where they should be dropped",
        "(part.ndim - 1)), null_part, part)", "(part.ndim - 1)), part, null_part)", PRIOR,
    ),
    # ---- the UNet
    Mutant(
        "unet: temporal layers touch images",
        "self.video_branches > 0 and self.frames > 1", "self.video_branches > 0", UNET,
    ),
    Mutant(
        "unet: a temporal transformer does not start at zero",
        'kernel_init=zeros, name="proj_out"', 'name="proj_out"', UNET,
    ),
    Mutant(
        "unet: a temporal convolution does not start at zero",
        'self.param("kernel", zeros, (3, channels, channels))',
        'self.param("kernel", nn.initializers.ones, (3, channels, channels))',
        UNET,
    ),
    Mutant(
        "unet: the positions of other frames", "position[:n, None]", "position[-n:, None]", UNET,
    ),
    Mutant(
        "unet: group norm takes its mean over all frames",
        "mean = group_mean(flat.mean(1))",
        "mean = group_mean(jnp.broadcast_to(flat.mean((0, 1)), (batch, channels)))",
        UNET,
    ),
    Mutant(
        "unet: epsilon of the transformer's layer norms",
        "LayerNorm(1e-5, dtype=self.dtype, name=name)",
        "LayerNorm(1e-3, dtype=self.dtype, name=name)",
        UNET,
    ),
    # ---- attention and layers
    Mutant(
        "attention: scaled by 1/d",
        "scale = q.shape[-1] ** -0.5 if", "scale = q.shape[-1] ** -1.0 if", ATTENTION,
    ),
    Mutant(
        "attention: a masked pair counts",
        "jnp.where(mask, logits, jnp.finfo(jnp.float32).min)", "jnp.where(mask, logits, 0.0)",
        ATTENTION,
    ),
    Mutant(
        "attention: a gradient without the softmax's own part",
        "weights * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))",
        "weights * (dy @ v.swapaxes(-1, -2))",
        ATTENTION,
    ),
    Mutant(
        "layers: group norm's statistics in the input's type",
        "x.reshape(batch, -1, channels).astype(jnp.float32)", "x.reshape(batch, -1, channels)",
        LAYERS,
    ),
    Mutant(
        "layers: the constant of quick_gelu",
        "jax.nn.sigmoid(1.702 * x)", "jax.nn.sigmoid(1.6 * x)", CLIP,
    ),
    Mutant(
        "layers: frequencies of the timestep embedding",
        "jnp.arange(half, dtype=jnp.float32) / half)",
        "jnp.arange(half, dtype=jnp.float32) / (half - 1))",
        LAYERS,
    ),
)  # fmt: skip
