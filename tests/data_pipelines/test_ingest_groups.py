"""Units of work: the list of inputs cut by bytes and number, and archives cut into ranges."""

import io
import tarfile

import pytest
from known_footage import archive, jpeg, read_inputs, shot

from gen1_jax.data_pipelines.footage import chunks, groups
from gen1_jax.data_pipelines.footage.archives import find_bounds, read_tar
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.inputs import Input
from gen1_jax.video.sources import Unreadable

SETTINGS = ImageSettings(buckets=((16, 16),))


def shard(path, count, size=lambda index: 100 + 37 * index % 900):
    """Writes an archive of samples that no decoder knows; every third has a long name."""
    members = {}
    for index in range(count):
        key = f"{index:05d}" if index % 3 else f"{index:05d}" + "long" * 40
        members[f"{key}.jpg"] = bytes([index % 251]) * size(index)
        members[f"{key}.txt"] = f"caption {index}".encode()
    return archive(path, members)


def read_all(path, count):
    bounds = [*find_bounds(path, path.stat().st_size, count), None]
    found = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        found.append([] if begin is None else list(read_tar(path, begin, end)))
    return found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_ranges_of_an_archive_are_the_archive(tmp_path, monkeypatch, form, count):
    monkeypatch.setattr(tarfile, "DEFAULT_FORMAT", form)
    monkeypatch.setattr(tarfile.TarInfo, "tobuf", _with(form))
    path = shard(tmp_path / "a.tar", 200)
    whole, ranges = list(read_tar(path)), read_all(path, count)
    assert [sample for each in ranges for sample in each] == whole and len(whole) == 200
    assert whole[4] == ("00004", bytes([4]) * 248, "caption 4", None)
    if count == 7:
        assert all(20 < len(each) < 40 for each in ranges)


def _with(form, tobuf=tarfile.TarInfo.tobuf):
    return lambda self, _=None, *rest: tobuf(self, form, *rest)


def test_the_bounds_are_found_by_headers_alone(tmp_path):
    path = shard(tmp_path / "a.tar", 20, lambda _: 2**20)

    read = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

    class Place:
        def open(self, _, buffering):
            return io.BufferedReader(Counted(path), buffering)

    bounds = find_bounds(Place(), path.stat().st_size, 4)
    assert [round(4 * each / path.stat().st_size) for each in bounds] == [0, 1, 2, 3]
    assert 0 < sum(read) < 0.02 * path.stat().st_size


@pytest.mark.parametrize("change", ["cut off", "header"])
@pytest.mark.parametrize("share", [0.0, 0.31, 0.5, 0.99])
def test_damage_costs_what_follows_it_and_is_reported_once(tmp_path, share, change):
    path = shard(tmp_path / "a.tar", 60)
    data = bytearray(path.read_bytes())
    size, whole = len(data), list(read_tar(path))
    headers = [at for at in range(0, size, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = headers[int(share * len(headers))]
    if change == "cut off":
        del data[at + 100 :]
    else:
        data[at : at + 100] = b"\xff" * 100  # which Python's module takes for the end
    path.write_bytes(data)
    bounds = [*find_bounds(path, size, 9), None]
    errors, found = [], []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        try:
            if begin is not None:
                found.extend(read_tar(path, begin, end))
        except Unreadable as error:
            errors.append(error.reason)
    assert errors == ["damaged"]
    # A sample may have lost the caption behind its image.
    assert [image for _, image, _, _ in found] == [image for _, image, _, _ in whole[: len(found)]]
    assert abs(len(found) - 60 * share) < 2


def test_groups_are_cut_by_bytes_and_number(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "_MOST", {"images": (100, 10_000), "clips": (3, 10_000)})
    monkeypatch.setattr(groups, "_LEAST_BYTES", 5_000)
    monkeypatch.setattr(groups, "_LEAST_GROUPS", 1)
    sizes = [100] * 250 + [4_000] * 5 + [50_000] + [100]
    inputs = []
    for index, size in enumerate(sizes):
        name = f"{index:03d}.{'tar' if size == 50_000 else 'jpg'}"
        (tmp_path / name).write_bytes(bytes(size))
        inputs.append(Input(name))
    inputs.append(Input("gone.jpg"))
    listed = groups.write_list(tmp_path, inputs, tmp_path / "list")
    assert listed.count == len(inputs) and listed.size == sum(sizes)
    made = groups.cut_groups(tmp_path / "list", listed, "images")
    assert [group.index for group in made] == list(range(len(made)))
    content = [[each for each, _ in groups.read_group(tmp_path / "list", g)] for g in made]
    assert [len(each) for each in content] == [100, 100, 51, 2, 2, 1, 1, 1, 1, 1, 2]
    whole = [each for each, group in zip(content, made, strict=True) if group.part == 0]
    assert sum(whole, []) == inputs
    parts = [group for group in made if group.parts > 1]
    assert [group.part for group in parts] == [0, 1, 2, 3, 4]
    films = groups.cut_groups(tmp_path / "list", listed, "clips")
    assert max(len(groups.read_group(tmp_path / "list", group)) for group in films) == 3


def test_a_kill_in_the_middle_of_an_archive_resumes_within_it(tmp_path, monkeypatch):
    """300 tiny images are one input and, with a lowered limit, several units."""
    monkeypatch.setattr(groups, "_LEAST_BYTES", 30_000)
    (tmp_path / "in").mkdir()
    tiny = [jpeg(shot(seed, 1, 16, 16)[0]) for seed in range(300)]
    archive(tmp_path / "in" / "a.tar", {f"{i:05d}.jpg": data for i, data in enumerate(tiny)})
    source = str(tmp_path / "in")
    whole = ingest(source, tmp_path / "whole", SETTINGS, progress=False)
    read = []

    def note(data, *rest, store=chunks.make_image):
        if len(read) == 200:
            raise KeyboardInterrupt
        read.append(data)
        return store(data, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(chunks, "make_image", note)
        ingest(source, tmp_path / "out", SETTINGS, progress=False)
    parts = tmp_path / "out" / ".ingest_images" / "parts"
    finished = len(list(parts.glob("*.json")))
    before, read = read, []
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "make_image", note)
        again = ingest(source, tmp_path / "out", SETTINGS, progress=False)
    assert finished > 2 and 100 < len(read) < 300
    assert set(before + read) == set(tiny) and len(before + read) < 350
    assert {**again.report, "asked": 0} == {**whole.report, "asked": 0}
    rows = read_inputs(tmp_path / "out" / "images")
    assert list(rows) == [f"a.tar/{i:05d}" for i in range(300)]
    assert rows == read_inputs(tmp_path / "whole" / "images")


def header(name, size=0, kind=b"0"):
    """A tar header; a size below 0 in base 256, as GNU's tar writes large ones."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else f"{size:011o} ".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "crafted",
    [
        header("a.txt") + header("b.x", -512),  # sends a reader back to the first header for ever
        b"".join(header("././@LongLink", 10, b"L") + b"n" * 512 for _ in range(1000)),
    ],
)
def test_a_crafted_archive_is_damaged_and_ends(tmp_path, crafted):
    path = tmp_path / "a.tar"
    path.write_bytes(crafted + bytes(1024))
    with pytest.raises(Unreadable) as caught:
        list(read_tar(path))
    assert caught.value.reason == "damaged"
    assert find_bounds(path, len(crafted) + 1024, 3)
