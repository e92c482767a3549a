"""A CLIP that measures: the pipeline's own, or one from a folder, sharded over the devices."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh

from gen1_jax.conditioning import Conditioner
from gen1_jax.distributed import batch_sharding, clip_sharding, replicated
from gen1_jax.errors import UserError
from gen1_jax.models.clip import CLIPModel
from gen1_jax.tokenizer import Tokenizer, load_tokenizer
from gen1_jax.weights.digest import digest_params
from gen1_jax.weights.folder import CONFIG, load_model

OWN = "the pipeline's own"
# Where model and tokenizer lie: in transformers' layout, in a pipeline, in the folder of a run, and
# in that of one part of a run.
_PLACES = (
    ("", ""),
    ("clip", "tokenizer"),
    ("clip/model", "tokenizer"),
    ("model", "../tokenizer"),
)
_ACCEPTED = (
    "accepted: CLIP in transformers' layout with its tokenizer's files, or a folder with clip/ and "
    "tokenizer/, as a pipeline has, or a part of a run"
)


class ClipJudge:
    """CLIP embeddings of clips, pictures and texts.

    It computes in float32 at the highest precision, whatever the pipeline computes in, so that
    figures of one CLIP are the same everywhere. That costs little beside sampling.

    Attributes:
      name: the end of its folder's path.
      size: side of the square pictures that it takes, in pixels.
    """

    def __init__(
        self,
        module: CLIPModel,
        params: Mapping[str, Any],
        tokenizer: Tokenizer,
        mesh: Mesh,
        name: str,
    ):
        self.name, self.size = name, module.vision_config.image_size
        self._tokenizer, self._config = tokenizer, module.to_config()
        clips, batch, whole = clip_sharding(mesh), batch_sharding(mesh), replicated(mesh)
        self._clips, self._batch = clips, batch
        self._params = {"clip": jax.device_put(params, whole)}
        encoder = Conditioner(clip=module.clone(dtype=None))

        def embed(params: Mapping, frames: jax.Array) -> jax.Array:
            images = encoder.embed_images(params, rearrange(frames, "b n h w c -> (b n) h w c"))
            return rearrange(images, "(b n) d -> b n d", b=len(frames))

        self._embed = jax.jit(embed, in_shardings=(whole, clips), out_shardings=clips)
        self._embed_pictures = jax.jit(
            encoder.embed_images, in_shardings=(whole, batch), out_shardings=batch
        )
        self._embed_text = jax.jit(encoder.embed_text)

    @classmethod
    def load(cls, folder: str | os.PathLike, mesh: Mesh, flag: str) -> "ClipJudge":
        """Loads CLIP and its tokenizer.

        Args:
          folder: holds config.json, safetensors and the tokenizer's files, as transformers saves
            them; or clip/ and tokenizer/, as a pipeline and a run do; or it is a part of a run.
          mesh: the devices to compute on.
          flag: what the folder was given by, for messages.

        Raises:
          UserError: there is no CLIP or no tokenizer, or they do not belong together.
        """
        folder = Path(folder)
        model, words = find_parts(folder, flag)
        module, params = load_model(model)
        if not isinstance(module, CLIPModel):
            raise UserError(f"{flag} {model} holds {type(module).__name__}; {_ACCEPTED}")
        tokenizer, text = load_tokenizer(words), module.text_config
        for what, got, most in (
            ("has a context of", tokenizer.context_length, text.max_position_embeddings),
            ("has ids up to", tokenizer.vocab_size, text.vocab_size),
        ):
            if got > most:
                raise UserError(
                    f"{flag} {folder}: the tokenizer {what} {got}, CLIP takes {most}; give CLIP "
                    "with its own tokenizer"
                )
        conditioner = Conditioner(clip=module).with_end_token(tokenizer.end_id)
        return cls(conditioner.clip, params, tokenizer, mesh, "/".join(folder.resolve().parts[-2:]))

    @functools.cached_property
    def digest(self) -> str:
        """Sixteen letters that tell one CLIP from another: of numbers, settings and tokenizer."""
        parts = (digest_params(self._params), self._config, self._tokenizer.describe())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def logit_scale(self) -> float:
        """The factor of cosines that CLIP was trained with, exp(logit_scale)."""
        return float(jnp.exp(self._params["clip"]["logit_scale"]))

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Clips [b n H W 3] uint8 → embeddings of all frames [b n d], in CLIP's own scale."""
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._embed(self._params, jax.device_put(frames, self._clips)))

    def embed_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures [b H W 3] uint8 → embeddings [b d], in CLIP's own scale."""
        with jax.default_matmul_precision("highest"):
            found = self._embed_pictures(self._params, jax.device_put(pictures, self._batch))
            return np.asarray(found)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → embeddings [b d], in CLIP's own scale."""
        tokens = self._tokenizer.encode(list(texts))
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._embed_text(self._params, tokens))


def find_parts(folder: Path, flag: str) -> tuple[Path, Path]:
    """Returns the folder of CLIP's model and that of its tokenizer.

    Raises:
      UserError: one of them is not there.
    """
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder; {_ACCEPTED}")
    places = [(folder / model, folder / words) for model, words in _PLACES]
    places = [place for place in places if (place[0] / CONFIG).is_file()]
    if not places:
        raise UserError(f"{flag} {folder} holds no CLIP; {_ACCEPTED}")
    for place in places:
        if any((place[1] / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return place
    raise UserError(f"{flag} {folder} holds no tokenizer; {_ACCEPTED}")
