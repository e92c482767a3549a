"""The networks that measure, sharded over the editor's devices."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from gen1_jax.distributed import clip_sharding
from gen1_jax.editing import VideoEditor
from gen1_jax.evaluation.clip_judge import OWN, ClipJudge
from gen1_jax.evaluation.metrics.lpips import Lpips
from gen1_jax.evaluation.metrics.perceptual import encoder_distances


class Judges:
    """The pipeline's own CLIP, depth network and autoencoder, and what the user gives beside them.

    Attributes:
      clip: embeds frames and texts.
      pickscore: a CLIP that was trained to say what people prefer; None: there is none.
      identity: what records hold of them, beside the pipeline's own digest; see `records.RUN`. A
        record of another does not count.
      weights: what else a record must hold to count, but where it was not asked for.
      names: what records hold of them for readers.
    """

    def __init__(
        self,
        editor: VideoEditor,
        lpips: Lpips | None = None,
        metric_clip: Path | None = None,
        pickscore: Path | None = None,
    ):
        """Loads what is given.

        Args:
          editor: the pipeline.
          lpips: the network of LPIPS.
          metric_clip: folder of a CLIP that measures in place of the pipeline's own, by which the
            model is conditioned; see `ClipJudge.load`.
          pickscore: folder of PickScore.

        Raises:
          UserError: a folder does not hold what it should.
        """
        conditioner, mesh = editor.conditioner, editor.mesh
        self._editor, self._lpips, self._clips = editor, lpips, clip_sharding(mesh)
        self.identity, self.weights = {}, {}
        if metric_clip is None:
            params = editor.params["clip"]
            self.clip = ClipJudge(conditioner.clip, params, editor.tokenizer, mesh, OWN)
        else:
            self.clip = ClipJudge.load(metric_clip, mesh, "--metric-clip")
            self.identity["metric_clip"] = self.clip.digest
        self.names = {"metric_clip_name": self.clip.name}
        self.pickscore = pickscore and ClipJudge.load(pickscore, mesh, "--pickscore")
        if self.pickscore:
            self.weights["pickscore_model"] = self.pickscore.digest
        self._compare = jax.jit(partial(encoder_distances, conditioner.vae))

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
