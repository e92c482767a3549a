"""The networks that measure, sharded over the editor's devices."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from einops import rearrange

from gen1_jax.distributed import clip_sharding, replicated
from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.metrics.lpips import Lpips
from gen1_jax.evaluation.metrics.perceptual import encoder_distances


class Judges:
    """The pipeline's own CLIP, depth network and autoencoder, and what the user gives beside them.

    Attributes:
      identity: what records hold of them, beside the pipeline's own digest; see `records.RUN`.
    """

    def __init__(self, editor: VideoEditor, lpips: Lpips | None = None):
        conditioner = editor.conditioner
        self._editor, self._lpips, self.identity = editor, lpips, {}
        self._clips = clip_sharding(editor.mesh)
        self._embed_text = jax.jit(conditioner.embed_text)

        def embed(params, frames):
            images = conditioner.embed_images(params, rearrange(frames, "b n h w c -> (b n) h w c"))
            return rearrange(images, "(b n) d -> b n d", b=len(frames))

        whole = replicated(editor.mesh)
        self._embed = jax.jit(embed, in_shardings=(whole, self._clips), out_shardings=self._clips)
        self._compare = jax.jit(partial(encoder_distances, conditioner.vae))

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Clips [b n H W 3] uint8 → CLIP embeddings of all frames [b n d], in CLIP's own scale."""
        return np.asarray(self._embed(self._editor.params, jax.device_put(frames, self._clips)))

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → CLIP embeddings [b d], in CLIP's own scale."""
        tokens = self._editor.tokenizer.encode(list(texts))
        return np.asarray(self._embed_text(self._editor.params, tokens))

    def estimate_depth(self, frames: np.ndarray) -> np.ndarray:
        """Clips [b n H W 3] uint8 → inverse depth [b n H W]."""
        return np.asarray(self._editor.estimate_depth(frames))

    def compare(self, frames: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
        """Two clips [b n H W 3] uint8 → distances [b n h w] in each layer of the autoencoder."""
        pair = (jax.device_put(each, self._clips) for each in (frames, others))
        return [np.asarray(x) for x in self._compare(self._editor.params["vae"], *pair)]

    def lpips(self, frames: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
        """Two clips [b n H W 3] uint8 → distances [b n h w] in each layer of LPIPS."""
        pair = (jax.device_put(each, self._clips) for each in (frames, others))
        return [np.asarray(x) for x in self._lpips(*pair)]
