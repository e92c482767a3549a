"""FVD: the Fréchet distance of features of edits and of the clips that were edited.

The features are those of a VideoMAE that was fine-tuned to tell actions apart, as in "On the
Content Bias in Fréchet Video Distance" (Ge et al., CVPR 2024), by whose measurements the I3D of the
first FVD (Unterthiner et al. 2018) hardly sees motion. I3D is passed on as TorchScript or as a
pickle, which run code when they are read; VideoMAE as safetensors, and transformers holds the
network. So the figures are no figures of I3D.

FVD is a number of a set of videos, so records do not hold it. Each edit's features are kept in
features/ of the evaluation's folder, a few kilobytes each.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gen1_jax.errors import UserError, one_line
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.metrics.frechet import frechet_distance
from gen1_jax.evaluation.records import Record, record_key
from gen1_jax.evaluation.tables import fields_of, group_records
from gen1_jax.files import read_json, replacing

FOLDER = "features"
KIND = "VideoMAEForVideoClassification"
_ACCEPTED = f"accepted: config.json and safetensors of a {KIND}, as transformers saves them"
# Mean and standard deviation of ImageNet, by which VideoMAE's training normalised its frames.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check_folder(folder: Path) -> None:
    """Checks what can be checked before anything is loaded.

    Raises:
      UserError: the folder holds no such model, or torch is missing.
    """
    if not folder.is_dir():
        raise UserError(f"--fvd {folder}: no such folder; {_ACCEPTED}")
    config = read_json(folder / "config.json") or {}
    if KIND not in (config.get("architectures") or ()):
        kind = config.get("architectures") or config.get("model_type") or "no model"
        raise UserError(f"--fvd {folder} holds {kind}; {_ACCEPTED}")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError(
            "--fvd needs torch, which computes VideoMAE: pip install 'gen1-jax[torch]'"
        ) from None


class VideoFeatures:
    """VideoMAE's features of clips, computed by torch on the host.

    Attributes:
      name: its folder's name.
      digest: sixteen letters that tell it apart from another.
    """

    def __init__(self, folder: Path):
        """Loads the network.

        Raises:
          UserError: see `check_folder`; or a file is damaged, or parameters are missing.
        """
        check_folder(folder)
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.name = folder.resolve().name
        try:
            self._model, found = transformers.VideoMAEForVideoClassification.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except Exception as error:  # transformers raises nothing more specific
            raise UserError(f"--fvd {folder} cannot be read: {one_line(error)}") from error
        if missing := sorted(found["missing_keys"]):
            raise UserError(f"--fvd {folder} lacks {len(missing)} parameters: {missing[0]} …")
        self._model.eval()
        digest = hashlib.sha256()
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(key.encode() + tensor.numpy().tobytes())
        self.digest = digest.hexdigest()[:16]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Returns the features of a clip, before the classifier.

        Args:
          frames: `[n H W 3]` uint8; as many frames as VideoMAE takes are chosen, evenly over the
            clip, some twice if the clip is shorter. Each is brought to VideoMAE's square by
            bilinear interpolation, whatever its shape.

        Returns:
          `[d]` float32.
        """
        import torch

        config, network = self._model.config, self._model
        chosen = np.linspace(0, len(frames) - 1, config.num_frames).round().astype(int)
        square = (config.image_size, config.image_size)
        seen = [
            Image.fromarray(f).resize(square, Image.Resampling.BILINEAR) for f in frames[chosen]
        ]
        pixels = (np.stack(seen) / 255 - _MEAN) / _STD
        pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
        with torch.no_grad():
            states = network.videomae(pixels[None]).last_hidden_state
            pooled = states[:, 0] if network.fc_norm is None else network.fc_norm(states.mean(1))
        return pooled[0].numpy()


class KeptFeatures:
    """The features of an evaluation's edits and sources, a file each.

    Args:
      folder: folder of the evaluation.
      features: the network.
      key_of: returns the key of an edit's record.
    """

    def __init__(self, folder: Path, features: VideoFeatures, key_of):
        self._folder, self._features, self._key_of = folder / FOLDER, features, key_of

    def is_missing(self, item: Item, setting: Mapping[str, object]) -> bool:
        """Returns whether an edit has no features yet."""
        return not self._path(self._key_of(item, setting)).exists()

    def write(self, item: Item, setting: Mapping[str, object], frames: np.ndarray) -> dict:
        """Writes the features of an edit and of its source; the record holds nothing of them."""
        source = self._source_path(item.pixels)
        if not source.exists():
            self._save(source, item.frames)
        self._save(self._path(self._key_of(item, setting)), frames)
        return {}

    def distances(self, records: Sequence[Record]) -> list[dict]:
        """Returns the FVD of each setting of records: edits against the clips that were edited.

        Returns:
          Rows: the setting, `fvd` (None: fewer than two videos), the numbers of `edits` and
          `sources`, and `backbone`.
        """
        fields, rows = fields_of(records), []
        for values, group in group_records(records, fields).items():
            sources = sorted({self._source_path(record["pixels"]) for record in group})
            edits = [self._path(record) for record in group]
            known = len(edits) > 1 and len(sources) > 1
            sets = [np.stack([np.load(path) for path in paths]) for paths in (edits, sources)]
            rows.append(
                {
                    name: value
                    for name, value in zip(fields, values, strict=True)
                    if value is not None
                }
                | {
                    "fvd": frechet_distance(*sets) if known else None,
                    "edits": len(edits),
                    "sources": len(sources),
                    "backbone": f"{self._features.name} {self._features.digest}",
                }
            )
        return rows

    def _save(self, path: Path, frames: np.ndarray) -> None:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as part, open(part, "wb") as file:
            np.save(file, self._features(frames))

    def _path(self, key: Record) -> Path:
        # A number of a record that was read again may be 1.0 where it was 1.
        plain = [
            f"{name}={float(v) if isinstance(v, int | float) else v}" for name, v in record_key(key)
        ]
        return self._named("\0".join(plain))

    def _source_path(self, pixels: str) -> Path:
        return self._named(pixels)

    def _named(self, text: str) -> Path:
        name = hashlib.sha256(f"{self._features.digest}\0{text}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.npy"
