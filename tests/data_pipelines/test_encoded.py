"""Encoded clips: their layout, writing in shards, reading, choosing, and the mixture over them."""

import json
import warnings

import numpy as np
import pytest
from encoded_files import COUNT, LEVELS, make_writer, record, write, write_folder

from gen1_jax.data_pipelines import mixture, transforms
from gen1_jax.data_pipelines.encoded.batches import (
    FIELDS,
    ToBatchForm,
    make_encoded_stream,
    to_batch_form,
)
from gen1_jax.data_pipelines.encoded.reader import EncodedSource
from gen1_jax.data_pipelines.encoded.records import make_layout
from gen1_jax.diffusion.structure import NUM_LEVELS
from gen1_jax.errors import Damaged, UserError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "train", vae="x")


def test_all_levels_are_those_of_the_structure():
    assert transforms.ALL_LEVELS == tuple(range(NUM_LEVELS))


@pytest.mark.parametrize(("precision", "error"), [("float16", 2**-11), ("float32", 2**-24)])
def test_round_trip(tmp_path, precision, error):
    """Every number comes back, rounded once, to the nearest of its precision."""
    folder = write_folder(tmp_path / "x", precision=precision, vae="x")
    source = EncodedSource(folder)
    assert len(source) == COUNT and source.meta["vae"] == "x" and source.shard_counts == [4, 4, 2]
    names = [f"clips-{shard:06d}.records" for shard in range(3)]
    assert sorted(contents(folder)) == [*names, "meta.json"]
    for index in (*range(COUNT), -1):
        clip, wanted = source[index], record(index % COUNT)
        assert set(clip) == set(wanted) and len(clip["structure"]) == len(LEVELS)
        for name, want in wanted.items():
            have = np.stack(list(clip[name])) if name == "structure" else clip[name]
            np.testing.assert_allclose(have, want, rtol=error, atol=2**-25)  # subnormal numbers
            assert have.dtype == (np.int32 if name in ("levels", "tokens") else precision)
    assert len(EncodedSource([folder, folder])) == 2 * COUNT
    assert EncodedSource([folder, folder])[COUNT + 3]["tokens"][0] == 3


def test_shards_in_any_order_by_any_writer_are_the_same_bytes(folder, tmp_path):
    """Two writers share the shards, and both are killed, one of them in the middle of a shard."""
    first, second = (make_writer(tmp_path / "x", vae="x") for _ in range(2))
    first.start()
    second.write(2, map(record, second.records(2)))
    before = contents(tmp_path / "x")
    # A kill leaves half a shard under its temporary name, and other temporary files.
    (tmp_path / "x" / ".clips-000001.abc.part.records").write_bytes(b"half")
    (tmp_path / "x" / ".meta.json.part").write_bytes(b"{")
    again = make_writer(tmp_path / "x", vae="x")
    again.start()
    assert again.missing() == [0, 1] and not again.finished
    with pytest.raises(UserError, match="x lacks clips-000000"):
        again.finish()
    write(again, reversed(again.missing()))
    assert contents(tmp_path / "x")[f"clips-{2:06d}.records"] in before.values()
    again.finish()
    assert contents(tmp_path / "x") == contents(folder)


def test_a_failed_shard_leaves_nothing(tmp_path):
    """An error among the records, or too few of them, leaves no shard."""
    writer = make_writer(tmp_path / "x")
    writer.start()

    def failing():
        yield record(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.write(0, failing())
    with pytest.raises(UserError, match="cannot write .*x"):
        writer.write(0, map(record, range(3)))

    def unreadable():
        yield record(0)
        open(tmp_path / "gone.mp4")

    with pytest.raises(UserError, match="cannot read .*gone.mp4 for .*x: No such file"):
        writer.write(0, unreadable())
    assert list(contents(tmp_path / "x")) == [".job.json"]
    with pytest.raises(UserError, match="x is no finished folder"):
        EncodedSource(tmp_path / "x")


def test_a_full_disk_is_one_line_and_no_shard(tmp_path):
    """A limit on the size of files fails a write as a full disk does."""
    import resource

    writer = make_writer(tmp_path / "x")
    writer.start()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*x: ") as caught:
            write(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(contents(tmp_path / "x")) == [".job.json"]
    write(writer)
    writer.finish()
    assert len(EncodedSource(tmp_path / "x")) == COUNT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vae": "y"}, "x was begun with vae"),
        ({"vae": "x", "count": 11}, "x was begun with count"),
        ({"vae": "x", "precision": "float32"}, "x was begun with precision"),
    ],
)
def test_a_job_of_other_settings_is_refused(tmp_path, change, says):
    make_writer(tmp_path / "x", vae="z").start()  # without a shard, it may begin anew
    first = make_writer(tmp_path / "x", vae="x")
    first.start()
    first.write(0, map(record, first.records(0)))
    make_writer(tmp_path / "x", vae="x").start()
    with pytest.raises(UserError, match=says):
        make_writer(tmp_path / "x", **change).start()


def test_folders_that_cannot_be_written(folder, tmp_path):
    with pytest.raises(UserError, match="train holds"):
        make_writer(folder, vae="x").start()
    (folder / "meta.json").unlink()
    with pytest.raises(UserError, match="train holds unfinished"):
        make_writer(folder, vae="x").start()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_writer(tmp_path / "file" / "sub").start()
    with pytest.raises(UserError, match="to .*x; at least one"):
        make_writer(tmp_path / "x", count=0)


@pytest.mark.parametrize(
    ("field", "change", "says"),
    [
        ("latents", lambda x: x * 1e9, "record 0 of .*x: latents holds .* float16"),
        ("content", lambda x: x * np.nan, "record 0 of .*x: content holds nan"),
        ("structure", lambda x: x - np.inf, "structure holds -inf"),
        ("latents", lambda x: x[:2], r"latents has shape \[2, 6, 6, 4\]"),
    ],
)
def test_records_that_do_not_fit_are_named(tmp_path, field, change, says):
    writer = make_writer(tmp_path / "x")
    writer.start()
    bad = record(0) | {field: change(record(0)[field])}
    with pytest.raises(UserError, match=says):
        writer.write(0, [bad])
    with pytest.raises(UserError, match="record 0 of .*x has latents"):
        writer.write(0, [{"latents": bad["latents"]}])
    assert list(contents(tmp_path / "x")) == [".job.json"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"latents": (6, 6, 4)}, r"latents .* accepted: \[n h w c\]"),
        ({"content": (2, 5)}, "content of shape .* disagrees"),
        ({"levels": (1,)}, "levels of shape .* disagrees"),
        ({"content": (4, 0)}, "content of shape"),
        ({"extra": (1,)}, "unknown extra"),
        ({"content": None}, "no content"),
    ],
)
def test_layouts_that_make_no_sense(change, says):
    shapes = {name: value.shape for name, value in record(0).items()} | change
    with pytest.raises(UserError, match=says):
        make_layout({name: shape for name, shape in shapes.items() if shape is not None})
    with pytest.raises(UserError, match="'int8'; accepted: float16"):
        make_layout({name: value.shape for name, value in record(0).items()}, "int8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 11}, "train holds fewer or more"),
        ({"count": 13}, "lacks clips-000003.records, which belongs to it"),
        ({"count": 0}, "meta.json is not readable"),
        ({"records_per_shard": "../x"}, "meta.json is not readable"),
        ({"format": 2}, "train has format 2; this version reads format 3"),
        ({"fields": {"latents": [4]}}, "meta.json is not readable"),
        ({"fields": None}, "meta.json is not readable"),
        ({"precision": "float32"}, "train holds fewer or more"),
    ],
)
def test_folders_that_cannot_be_read(folder, change, says):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(UserError, match=says):
        EncodedSource(folder)[0]


def damage(folder, index, part="content"):
    """Changes one byte of a clip."""
    path = folder / f"clips-{index // 4:06d}.records"
    data = bytearray(path.read_bytes())
    stored = EncodedSource(folder)[index][part]
    place = bytes(data).index(np.ascontiguousarray(stored).tobytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_record_is_named(folder):
    damage(folder, 5)
    source = EncodedSource(folder)
    with pytest.raises(Damaged, match="record 5 of .*train is damaged: its checksum"):
        source[5]["content"]
    assert source[4]["tokens"][0] == 4


@pytest.mark.parametrize("part", ["content", "latents_logvar"])
def test_a_damaged_record_is_replaced_named_and_counted(folder, part):
    """Every host and every restart reads the same other record in its place."""
    fields = ("latents", "latents_logvar", "tokens")
    options = {"batch_size": 10, "image_fraction": 0.0, "levels": LEVELS, "fields": fields}

    def read(**reading):
        stream = make_encoded_stream(EncodedSource(folder), **options, **reading)
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            tokens = [next(stream).tokens[:, 0].tolist() for _ in range(2)]  # two epochs
            stream.close()
        return tokens, stream.replaced, [str(each.message) for each in noted]

    whole, none, silent = read(num_threads=0)  # nothing is read ahead after the damage
    assert none == 0 and not silent
    damage(folder, 5, part)
    tokens, replaced, noted = read()
    assert replaced == 2 and len(noted) == 1 and "record 5 of" in noted[0]
    assert (tokens, replaced) == read(num_threads=0)[:2]
    for epoch in range(2):
        assert 5 not in tokens[epoch] and whole[epoch].count(5) == 1
        same = np.not_equal(whole[epoch], 5)
        np.testing.assert_array_equal(np.array(tokens[epoch])[same], np.array(whole[epoch])[same])


@pytest.mark.parametrize("n", [1, 4])
def test_batch_form(folder, n):
    stored = EncodedSource(folder)[0]
    levels, frames = set(), set()
    fields = (*FIELDS, "latents_logvar")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        example = to_batch_form(stored, rng, n, (0, 7, 5), fields)
        assert example["latents"].shape == example["structure"].shape == (n, 6, 6, 4)
        assert example["latents_logvar"].shape == (n, 6, 6, 4)
        assert example["latents"].dtype == example["content"].dtype == np.float16
        level, frame = int(example["structure_level"]), int(round(example["content"][0] / 100))
        assert (example["structure"] == level).all()
        if n == 1:  # the content is that of the frame itself
            np.testing.assert_array_equal(example["latents"][0], stored["latents"][frame])
        levels.add(level)
        frames.add(frame)
    assert levels == {0, 7} and frames == {0, 1, 2, 3}
    with pytest.raises(UserError, match="no structure level of"):
        to_batch_form(stored, np.random.default_rng(0), n, (1, 2))
    with pytest.raises(UserError, match="4 frames is too short"):
        to_batch_form(stored, np.random.default_rng(0), 5)


@pytest.mark.parametrize("n", [1, 3])
def test_clips_are_drawn_alike_raw_and_encoded(folder, n):
    """The same seed takes the same records, frames, level and content frame of either."""
    source = EncodedSource(folder)

    class Raw:
        def __len__(self):
            return COUNT

        def __getitem__(self, index):  # a frame's colour says which frame it is
            numbers = np.uint8(10 * index) + np.arange(4, dtype=np.uint8)
            return {"frames": np.broadcast_to(numbers[:, None, None, None], (4, 2, 2, 3))}

    shared = {"seed": 3, "component": 1}
    choice = transforms.ChooseFrames(n, 1, LEVELS)
    crop = transforms.FitTo((1, 2))  # its draws must not change those of `choice`
    raw = mixture.batches([Raw()], [crop, choice], 2, **shared)
    form = ToBatchForm(n, LEVELS, ("latents",))
    stored = mixture.batches([source], [form], 2, **shared)
    for step in range(20):
        a, b = raw[step], stored[step]
        np.testing.assert_array_equal(a["structure_level"], b["structure_level"])
        for i in range(2):
            index, start = divmod(int(a["frames"][i, 0, 0, 0, 0]), 10)
            assert b["tokens"][i, 0] == index
            latents = source[index]["latents"][start : start + n]
            np.testing.assert_array_equal(b["latents"][i], latents)
            content = source[index]["content"][start + a["content_frame"][i]]
            np.testing.assert_array_equal(b["content"][i], content)


def test_stream_mixes_and_resumes(folder):
    def stream():
        return iter(
            make_encoded_stream(
                EncodedSource(folder),
                batch_size=2,
                levels=LEVELS,
                fields=("latents", "structure", "structure_level", "content", "tokens"),
            )
        )

    first, frames = stream(), []
    for _ in range(16):
        batch = next(first)
        frames.append(batch.num_frames)
        assert batch.size == (8 if batch.num_frames == 1 else 2)
        assert batch.structure_level.dtype == np.int32 and batch.content.shape[1] == 5
        np.testing.assert_array_equal(batch.structure[:, 0, 0, 0, 0], batch.structure_level)
    assert frames == ([4] * 7 + [1]) * 2
    state = first.get_state()
    want = [next(first) for _ in range(20)]
    again = stream()
    again.set_state(state)
    for batch in want:
        have = next(again).fields()
        assert all(have[k].tobytes() == v.tobytes() for k, v in batch.fields().items())


def test_structure_is_read_only_where_it_is_wanted(folder, monkeypatch):
    """Neither a level that is not drawn nor an unwanted structure is read."""
    source = EncodedSource(folder)
    entries, read = [], EncodedSource.read

    def count(self, index, entry, unpack):
        entries.append((index, entry))
        return read(self, index, entry, unpack)

    monkeypatch.setattr(EncodedSource, "read", count)
    rng = np.random.default_rng(0)
    to_batch_form(source[2], rng, 4, (7,))
    assert entries == [(2, 0), (2, 4)]
    to_batch_form(source[2], rng, 4, (7,), ("latents", "content"))
    assert entries == [(2, 0), (2, 4), (2, 0)]


def test_workers_read_what_one_process_reads(folder):
    def first(**reading):
        source = EncodedSource(folder)
        stream = iter(make_encoded_stream(source, batch_size=2, levels=LEVELS, **reading))
        return [next(stream) for _ in range(3)]

    for one, other in zip(first(), first(num_workers=1, num_threads=1), strict=True):
        other = other.fields()
        assert all(v.tobytes() == other[k].tobytes() for k, v in one.fields().items())
