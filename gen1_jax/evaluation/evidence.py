"""What measures look at: a batch of edits beside their sources, each part computed once."""

from functools import cached_property

import numpy as np

from gen1_jax.data_pipelines.moving_shapes.lineup import Found, Lineup
from gen1_jax.evaluation.clips import Clips
from gen1_jax.evaluation.crops import crop_objects, fit_picture, squeeze_frames
from gen1_jax.evaluation.items import Item
from gen1_jax.evaluation.judges import Judges
from gen1_jax.evaluation.metrics.consistency import prompt_consistency
from gen1_jax.video.flow import Flow, estimate_flow


class Seen:
    """Clips as the judges see them: what is computed of frames alone.

    Attributes:
      frames: `[b n H W 3]` uint8.
    """

    def __init__(self, frames: np.ndarray, judges: Judges):
        self.frames, self._judges = frames, judges

    @cached_property
    def embeddings(self) -> np.ndarray:
        """CLIP embeddings of all frames, `[b n d]`."""
        return self._judges.clip.embed(self.frames)

    @cached_property
    def squeezed_embeddings(self) -> np.ndarray:
        """CLIP embeddings of all frames as LOVEU-TGVE's script squeezes them, `[b n d]`."""
        return self._judges.clip.embed(squeeze_frames(self.frames))

    @cached_property
    def depth(self) -> np.ndarray:
        """Estimated inverse depth, `[b n H W]`."""
        return self._judges.estimate_depth(self.frames)

    @cached_property
    def flow(self) -> Flow:
        """Optical flow of consecutive frames."""
        return estimate_flow(self.frames)


class Source(Seen):
    """The clips that are edited, which all settings share."""

    def __init__(self, clips: Clips, judges: Judges):
        super().__init__(clips.frames, judges)
        self._clips, self.items = clips, clips.items

    @cached_property
    def depth(self) -> np.ndarray:
        """The depth that the editor has estimated already, `[b n H W]`."""
        return self._clips.depth

    @cached_property
    def flow(self) -> Flow:
        """The flow that methods may have estimated already."""
        return self._clips.flow

    @cached_property
    def true_depth(self) -> np.ndarray:
        """The true inverse depth where it is known, else the estimated one, `[b n H W]`."""
        if any(item.depth is None for item in self.items):
            return self.depth
        return np.stack([item.depth for item in self.items])

    @cached_property
    def masks(self) -> np.ndarray:
        """`[b n H W]` bool, the objects that the prompts change."""
        return np.stack([item.mask for item in self.items])

    @cached_property
    def lineups(self) -> list[Lineup]:
        """What each edit should become, and might have become, on the world."""
        made = {id(item): _lineup(item) for item in self.items}  # a batch may hold repeats
        return [made[id(item)] for item in self.items]

    @cached_property
    def texts(self) -> np.ndarray:
        """CLIP embeddings of the prompts, `[b d]`."""
        return self._judges.clip.embed_text([item.prompt for item in self.items])

    @cached_property
    def source_texts(self) -> np.ndarray:
        """CLIP embeddings of what the sources show, in words, `[b d]`."""
        return self._judges.clip.embed_text([item.source_prompt for item in self.items])

    @cached_property
    def pictures(self) -> np.ndarray:
        """CLIP embeddings of the pictures that content was taken from, `[b d]`."""
        clip = self._judges.clip
        seen = [fit_picture(item.image, clip.size) for item in self.items]
        return clip.embed_pictures(np.stack(seen))


class Evidence:
    """A batch of edits and their sources.

    Attributes:
      output: the edits.
      source: the clips that were edited.
      seconds: that an edit took, one number for all.
    """

    def __init__(
        self, frames: np.ndarray, source: Source, judges: Judges, seconds: float = float("nan")
    ):
        self.output, self.source, self._judges = Seen(frames, judges), source, judges
        self.seconds = seconds

    @cached_property
    def objects(self) -> tuple[np.ndarray, np.ndarray]:
        """CLIP embeddings of masked objects, `[b n d]`, and whether a frame has one, `[b n]`."""
        clip = self._judges.clip
        crops, seen = crop_objects(self.output.frames, self.source.masks, clip.size)
        return clip.embed(crops), seen

    @cached_property
    def pickscore(self) -> np.ndarray:
        """PickScore of each edit and its prompt, mean over frames, `[b]`."""
        judge, prompts = self._judges.pickscore, [item.prompt for item in self.source.items]
        frames, texts = judge.embed(self.output.frames), judge.embed_text(prompts)
        return judge.logit_scale * prompt_consistency(frames, texts)

    @cached_property
    def distances(self) -> list[np.ndarray]:
        """Distances of output and source in the autoencoder's features; see `perceptual.py`."""
        return self._judges.compare(self.output.frames, self.source.frames)

    @cached_property
    def lpips(self) -> list[np.ndarray]:
        """Distances of output and source in the layers of LPIPS; see `lpips.py`."""
        return self._judges.lpips(self.output.frames, self.source.frames)

    @cached_property
    def found(self) -> list[Found]:
        """What each output shows, told by the world's truth."""
        pairs = zip(self.source.lineups, self.output.frames, strict=True)
        return [lineup.find(frames) for lineup, frames in pairs]

    @cached_property
    def found_masks(self) -> np.ndarray:
        """The pixels that look like the object, `[b n H W]` bool."""
        return np.stack([found.mask for found in self.found])

    @cached_property
    def wanted_masks(self) -> np.ndarray:
        """Where the object should be, `[b n H W]` bool."""
        return np.stack([lineup.wanted.mask for lineup in self.source.lineups])

    @cached_property
    def wanted_depth(self) -> np.ndarray:
        """The true inverse depth of the clips that are asked for, `[b n H W]`."""
        return np.stack([lineup.wanted.depth for lineup in self.source.lineups])


def _lineup(item: Item) -> Lineup:
    frames, height, width = item.frames.shape[:3]
    truth = item.truth
    return Lineup(
        truth["seed"],
        truth,
        item.wanted,
        num_frames=frames,
        size=(height, width),
        camera=truth["camera"],
    )
