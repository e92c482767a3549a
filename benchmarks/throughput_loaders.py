"""The loaders that data_throughput.py compares: those of gen1-jax, and PyTorch's DataLoader."""

import io
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gen1_jax.data_pipelines import mixture
from gen1_jax.data_pipelines.encoded.batches import make_encoded_stream
from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.raw import make_buckets, open_raw
from gen1_jax.data_pipelines.stream import Stream

SIZE = (256, 448)  # (height, width) of clips
NUM_FRAMES, STRIDE = 8, 4
EPOCH = 10_000  # clips; the few that exist are repeated
ENCODED = 250  # precomputed clips


# ---- ours


class Repeated:
    """Repeats a short source to the length of a real one; Grain shuffles a short one slowly."""

    def __init__(self, source, times: int):
        self._source, self._times = source, times

    def __len__(self) -> int:
        return len(self._source) * self._times

    def __getitem__(self, index: int) -> dict:
        return self._source[index % len(self._source)]


def our_clips(
    data: Path, batch_size: int, *, image_fraction: float = 0.0, **reading: int
) -> Stream:
    videos, images = make_buckets(
        open_raw({"form": "footage", "folder": str(data)}, "train"), buckets=(SIZE,)
    )
    (source,) = videos[0].sources
    videos = [mixture.Bucket(SIZE, [Repeated(source, 1 + EPOCH // len(source))])]
    return mixture.make_raw_stream(
        videos,
        images,
        batch_size=batch_size,
        image_batch_size=2 * batch_size,
        image_fraction=image_fraction,
        num_frames=NUM_FRAMES,
        **reading,
    )


def our_encoded(folder: Path, batch_size: int, **reading: int) -> Stream:
    source = EncodedSource([folder / "train"] * (EPOCH // ENCODED))
    return make_encoded_stream(source, batch_size=batch_size, image_fraction=0.0, **reading)


# ---- PyTorch's


class EncodedClips(Dataset):
    """Short films, each decoded whole."""

    def __init__(self, paths: list[str]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        data = io.BytesIO(Path(self._paths[index]).read_bytes())
        with av.open(data, format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            # By default PyAV converts each frame's colours with a thread a core, at twice the cost.
            frames = [f.to_ndarray(format="rgb24", threads=1) for f in container.decode(stream)]
        return torch.from_numpy(np.stack(frames))


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """Returns the smallest size that covers SIZE and keeps the aspect."""
    factor = max(SIZE[0] / height, SIZE[1] / width)
    return max(SIZE[0], round(height * factor)), max(SIZE[1], round(width * factor))


class SoughtClips(Dataset):
    """Frames a stride apart, from random places of whole videos."""

    def __init__(self, paths: list[str], length: int):
        self._paths, self._length = paths, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> torch.Tensor:
        place = random.Random(random.random())
        path, span = place.choice(self._paths), (NUM_FRAMES - 1) * STRIDE + 1
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            rate, base = stream.average_rate, stream.time_base
            count = stream.frames or int(stream.duration * base * rate)
            start = place.randrange(max(1, count - span + 1))
            container.seek(int(start / rate / base), stream=stream, backward=True)
            height, width = scaled_size(stream.height, stream.width)
            top, left = (height - SIZE[0]) // 2, (width - SIZE[1]) // 2
            wanted = [start + i * STRIDE for i in range(NUM_FRAMES)]
            frames = []
            for frame in container.decode(stream):
                if len(frames) < NUM_FRAMES and frame.time * rate >= wanted[len(frames)] - 0.5:
                    small = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
                    frames.append(small[top : top + SIZE[0], left : left + SIZE[1]])
                if len(frames) == NUM_FRAMES:
                    break
        frames += frames[-1:] * (NUM_FRAMES - len(frames))
        return torch.from_numpy(np.stack(frames))


class TorchcodecClips(SoughtClips):
    """What `SoughtClips` gives, decoded by torchcodec."""

    def __getitem__(self, index: int) -> torch.Tensor:
        from torchcodec.decoders import VideoDecoder

        place = random.Random(random.random())
        decoder = VideoDecoder(
            place.choice(self._paths), num_ffmpeg_threads=1, seek_mode="approximate"
        )
        span = (NUM_FRAMES - 1) * STRIDE + 1
        start = place.randrange(max(1, decoder.metadata.num_frames - span + 1))
        frames = decoder.get_frames_in_range(start, start + span, STRIDE).data
        height, width = scaled_size(*frames.shape[-2:])
        top, left = (height - SIZE[0]) // 2, (width - SIZE[1]) // 2
        frames = torch.nn.functional.interpolate(frames, (height, width), mode="bilinear")
        frames = frames[..., top : top + SIZE[0], left : left + SIZE[1]]
        return frames.permute(0, 2, 3, 1).contiguous()


def torch_loader(dataset: Dataset, batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    """Yields batches of a shuffled data set without end."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="spawn",  # as in our loader, because the process has threads
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))
