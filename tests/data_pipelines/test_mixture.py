"""The Grain mixture: exact proportions, exact resume, buckets, shards, transforms."""

import json

import grain
import numpy as np
import pytest

from gen1_jax.data_pipelines import mixture, transforms
from gen1_jax.errors import UserError


class Counting:
    """A source whose frames say by their colour which record and frame they are."""

    def __init__(self, length, frames=3, size=(4, 4)):
        self.length, self.frames, self.size = length, frames, size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        value = np.arange(self.frames)[:, None, None] + 10 * index
        frames = np.broadcast_to(value[..., None], (self.frames, *self.size, 3))
        depth = np.broadcast_to(np.float32(value), (self.frames, *self.size))
        return {"frames": frames.astype(np.uint8), "depth": depth, "caption": f"clip {index}"}


def tokenizer(texts):
    """One token a character, padded to 9."""
    return np.array([[*map(ord, text.ljust(9, "\0"))] for text in texts], np.int32)


def make(videos=None, buckets=((4, 4),), **kwargs):
    source = Counting(12) if videos is None else videos
    options = {"batch_size": 2, "num_frames": 2, "num_threads": 0, **kwargs}
    return mixture.make_raw_stream([mixture.Bucket(size, [source]) for size in buckets], **options)


def labelled(label, seed):
    return mixture.batches([range(100)], [], 1, seed=seed).map(lambda _: label)


def test_one_batch_in_eight_is_images_and_never_two_in_a_row():
    mixed = mixture.mix([labelled("video", 0)], [labelled("image", 1)])
    drawn = np.array([mixed[step] == "image" for step in range(4000)])
    assert drawn.sum() == 500
    assert not (drawn[1:] & drawn[:-1]).any()
    # Exact in every window of eight, wherever training starts.
    assert set(np.convolve(drawn, np.ones(8, int), "valid")) == {1}


@pytest.mark.parametrize("fraction", [0.3, 0.5, 1 / 3, 0.9])
def test_other_fractions_are_exact_too(fraction):
    mixed = mixture.mix([labelled(0, 0)], [labelled(1, 1)], fraction)
    assert abs(sum(mixed[step] for step in range(1000)) - 1000 * fraction) < 1


@pytest.mark.parametrize("fraction", [0.125, 0.3, 0.9])
def test_no_batch_of_either_kind_is_left_out(fraction):
    def numbered(kind):
        dataset = grain.MapDataset.source(range(100))
        return [dataset.map(lambda number: (kind, number))]

    mixed = mixture.mix(numbered("video"), numbered("image"), fraction)
    drawn = [mixed[step] for step in range(100)]
    for kind in ("video", "image"):
        numbers = [number for one, number in drawn if one == kind]
        assert numbers == list(range(len(numbers)))


def test_buckets_are_mixed_before_images_and_videos():
    videos = [labelled(f"video{i}", i) for i in range(3)]
    images = [labelled(f"image{i}", i) for i in range(2)]
    mixed = mixture.mix(videos, images)
    drawn = [mixed[step] for step in range(480)]
    assert {drawn.count(f"video{i}") for i in range(3)} == {140}
    assert {drawn.count(f"image{i}") for i in range(2)} == {30}
    assert [d.startswith("image") for d in drawn[:16]] == ([False] * 7 + [True]) * 2


@pytest.mark.parametrize(("fraction", "frames"), [(0.0, {2}), (1.0, {1}), (0.125, {1, 2})])
def test_only_videos_or_only_images(fraction, frames):
    stream = iter(make(image_fraction=fraction))
    assert {next(stream).frames.shape[1] for _ in range(8)} == frames


def test_batches_keep_the_schema():
    stream = iter(make(fields=("frames", "depth", "tokens"), tokenizer=tokenizer))
    for _ in range(8):
        batch = next(stream)
        n = batch.num_frames
        size = 2 if n == 2 else 4  # as many frames in a batch of images
        assert batch.frames.shape == (size, n, 4, 4, 3) and batch.frames.dtype == np.uint8
        assert batch.depth.shape == (size, n, 4, 4) and batch.depth.dtype == np.float32
        assert batch.tokens.shape == (size, 9) and batch.tokens.dtype == np.int32
        # Frames, depth and caption of an example stay together, and frames follow each other.
        clip = batch.frames[..., 0, 0, 0].astype(int) // 10
        np.testing.assert_array_equal(batch.depth[..., 0, 0], batch.frames[..., 0, 0, 0])
        text = ["".join(map(chr, row)).rstrip("\0") for row in batch.tokens]
        assert text == [f"clip {i}" for i in clip[:, 0]]
        assert (np.diff(batch.frames[..., 0, 0, 0].astype(int), axis=1) == 1).all()


def test_every_record_is_read_once_an_epoch_in_another_order():
    stream = iter(make(image_fraction=0.0))
    read = [next(stream).frames[:, 0, 0, 0, 0] // 10 for _ in range(12)]
    epochs = np.concatenate(read).reshape(2, 12)
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_components_of_one_source_read_it_in_different_orders():
    stream = iter(make(image_fraction=0.0, buckets=((4, 4), (2, 2))))
    large, small = [], []
    for _ in range(6):
        large.append(next(stream).frames[:, 0, 0, 0, 0] // 10)
        small.append(next(stream).frames[:, 0, 0, 0, 0] // 10)
    assert (np.array(large) != np.array(small)).any()


@pytest.mark.parametrize("threads", [0, 2])
def test_resume_is_exact(threads):
    options = {"buckets": ((4, 4), (3, 5)), "num_threads": threads, "fields": ("frames", "depth")}
    stop = (5, 33)[threads // 2]
    stream = iter(make(**options))
    for _ in range(stop):
        next(stream)
    state = json.loads(json.dumps(stream.get_state()))
    uninterrupted = [next(stream) for _ in range(50)]
    restored = iter(make(**options))
    next(restored)
    restored.set_state(state)
    for want in uninterrupted:
        have, want = next(restored).fields(), want.fields()
        for name in want:
            assert have[name].dtype == want[name].dtype
            assert have[name].tobytes() == want[name].tobytes()


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="no place in a stream"):
        make().set_state({"workers_state": {}})


def test_worker_processes_give_the_same_stream_and_resume():
    one, many = iter(make()), iter(make(num_workers=1, num_threads=1))
    for _ in range(5):
        np.testing.assert_array_equal(next(one).frames, next(many).frames)
    state = many.get_state()
    want = [next(many).frames for _ in range(5)]
    many.set_state(state)
    for frames in want:
        np.testing.assert_array_equal(next(many).frames, frames)


def share(process: int, count: int):
    """Returns the rows of a process, whose devices are the neighbours of each other in the mesh."""
    return lambda size, n: np.split(np.arange(size), count)[process]


def test_hosts_draw_the_same_kind_and_different_records():
    hosts = [iter(make(rows=share(i, 2))) for i in range(2)]
    for _ in range(16):
        first, second = (next(h).frames for h in hosts)
        assert first.shape == second.shape
        assert len(first) == (1 if first.shape[1] == 2 else 2)
        assert not set(first[:, 0, 0, 0, 0] // 10) & set(second[:, 0, 0, 0, 0] // 10)


class Recording(Counting):
    """Remembers what was read of it."""

    def __init__(self, length):
        super().__init__(length)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_a_host_reads_its_own_records_alone():
    sources = [Recording(24) for _ in range(3)]
    for host, source in enumerate(sources):
        stream = make(source, batch_size=6, rows=share(host, 3), image_fraction=0.0)
        for _ in range(4):
            next(stream)
    # An epoch of four steps: each host read its two clips a step, and all together each clip once.
    assert [len(source.read) for source in sources] == [8, 8, 8]
    assert sorted(index for source in sources for index in source.read) == list(range(24))


def test_rows_need_not_be_neighbours():
    whole = iter(make(batch_size=4))
    hosts = [iter(make(batch_size=4, rows=lambda size, n, i=i: range(i, size, 2))) for i in (0, 1)]
    for _ in range(9):  # of videos and of images
        want, halves = next(whole).frames, [next(host).frames for host in hosts]
        np.testing.assert_array_equal(np.stack(halves, axis=1).reshape(want.shape), want)


def test_seed_changes_the_order():
    a, b = (next(iter(make(seed=s, image_fraction=0.0, batch_size=12))).frames for s in (0, 1))
    assert (a != b).any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"videos": Counting(0)}, "0 records"),
        ({"batch_size": 0}, "a batch of 0"),
        ({"fields": ("frames", "tokens")}, "needs a tokenizer"),
        ({"image_fraction": 1.5}, "outside 0..1"),
        ({"buckets": ()}, "no buckets"),
        ({"buckets": ((0, 4),)}, "height, width"),
        ({"stride": 0}, "at least 1"),
    ],
)
def test_bad_settings(change, says):
    with pytest.raises(UserError, match=says):
        make(**change)


def test_bad_records():
    with pytest.raises(UserError, match="too short"):
        next(iter(make(num_frames=5)))
    with pytest.raises(UserError, match="no 'mask'"):
        next(iter(make(fields=("frames", "mask"))))


def test_choose_frames_keeps_the_stride():
    chosen = transforms.ChooseFrames(3, 2).random_map(
        Counting(1, frames=9)[0], np.random.default_rng(0)
    )
    assert np.diff(chosen["frames"][:, 0, 0, 0]).tolist() == [2, 2]
    assert np.diff(chosen["depth"][:, 0, 0]).tolist() == [2, 2]


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (24, 8), (64, 32)])
def test_fit_covers_the_bucket_without_distortion(size):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :48].astype(np.float32)
    ramp = {"frames": np.stack([y * 4, x * 4, x * 0], -1)[None].astype(np.uint8), "depth": x[None]}
    fitted = transforms.FitTo(size, random_crop=False).random_map(ramp, rng)
    assert fitted["frames"].shape == (1, *size, 3) and fitted["frames"].dtype == np.uint8
    assert fitted["depth"].shape == (1, *size) and fitted["depth"].dtype == np.float32
    factor = max(size[0] / 32, size[1] / 48)
    steps = np.diff(fitted["depth"][0], axis=1)[:, 2:-2]
    np.testing.assert_allclose(steps.mean(), 1 / factor, rtol=0.1)
    middle = fitted["depth"][0].mean()
    np.testing.assert_allclose(middle, 23.5, atol=1)
