"""Ingest of images: files that Pillow reads, archives, manifests, and refused sources."""

import csv
import dataclasses
import io
import json
import os
import sys
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from known_footage import WORDS, archive, film_file, jpeg, read_inputs, shot
from PIL import Image, ImageCms
from video_files import psnr

from gen1_jax.data_pipelines.footage.images import ImageSettings, store_image
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.inputs import find_inputs
from gen1_jax.data_pipelines.footage.keys import name_split
from gen1_jax.data_pipelines.footage.records import decode_image
from gen1_jax.errors import UserError

SETTINGS = ImageSettings(buckets=((40, 40), (32, 56), (56, 32)))


def picture(seed, height=64, width=64):
    return shot(seed, 1, height, width)[0]


def png(array, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def stored(out, report):
    """Source -> (split, decoded record, stored bytes)."""
    builder = tfds.builder_from_directory(next((out / "images").glob("*.*.*")))
    assert set(builder.info.splits) == set(report["splits"])
    found = {}
    for split in builder.info.splits:
        for record in builder.as_data_source(split=split):
            image = decode_image(record)
            assert image["source"] not in found
            found[image["source"]] = split, image, record["image"]
    return found


def run(source, out, settings=SETTINGS, **options):
    report = ingest(str(source), out, settings, progress=False, **options).report
    return report, read_inputs(out / "images"), stored(out, report)


def bomb():
    """A PNG that says it is 100,000 x 100,000."""
    data = bytearray(png(picture(0)))
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_images_of_every_kind(tmp_path):
    root = tmp_path / "in"
    (root / "deep").mkdir(parents=True)
    wide, whole = picture(1, 80, 140), picture(2, 48, 48)
    exif = Image.fromarray(wide).getexif()
    exif[0x0112] = 6
    clear = np.concatenate([picture(5), np.full((64, 64, 1), 255, np.uint8)], -1)
    clear[:, :32, 3] = 0
    deep_grey = picture(6)[..., 0].astype(np.uint16) * 257
    (root / "wide.jpg").write_bytes(jpeg(wide, quality=95))
    (root / "turned.jpg").write_bytes(jpeg(picture(3, 80, 140), exif=exif, quality=95))
    (root / "cmyk.jpg").write_bytes(jpeg_of(Image.fromarray(picture(4)).convert("CMYK")))
    (root / "alpha.png").write_bytes(png(clear))
    (root / "grey16.png").write_bytes(png(deep_grey))
    Image.fromarray(picture(7)).save(
        root / "moving.gif", save_all=True, append_images=[Image.fromarray(picture(8))]
    )
    (root / "deep" / "exact.jpg").write_bytes(jpeg(picture(9, 40, 52)))
    (root / "wrong_suffix.txt.jpg").write_bytes(png(whole))
    (root / "palette.png").write_bytes(png(Image.fromarray(picture(10)).quantize(64)))
    latin = os.fsdecode(b"na\xefve.jpg")  # a name that is no UTF-8
    (root / latin).write_bytes(jpeg(picture(13)))
    (root / "wide.txt").write_bytes("\ufeffa wide picture\n".encode())
    (root / "cmyk.txt").write_bytes(b"caf\xe9")
    (root / "alpha.json").write_text(json.dumps({"caption": "half\ud83d of it", "width": 64}))
    bad = {
        "small.png": ("too small", png(picture(11, 30, 64))),
        "long.png": ("too little kept", png(picture(13, 40, 200))),
        "empty.jpg": ("empty file", b""),
        "text.jpg": ("not an image", WORDS),
        "cut.jpg": ("damaged", jpeg(picture(12, 200, 200))[:900]),
        "bomb.png": ("too many pixels", bomb()),
        "z_copy.png": ("duplicate", jpeg(resized(wide, 60, 105), quality=60)),
    }
    for name, (_, data) in bad.items():
        (root / name).write_bytes(data)
    film_file(root / "film.mp4", 1)

    report, rows, found = run(root, tmp_path / "out", validation_fraction=0.3)
    reasons = {name: reason for name, (reason, _) in bad.items()} | {"film.mp4": "not an image"}
    assert {name: row["reason"] for name, row in rows.items() if row["reason"]} == reasons
    assert report["inputs"] == len(rows) == 10 + len(reasons)
    assert report["used"] == len(found) == 10
    assert rows["na\\xefve.jpg"]["kept"] == 1  # no half of a surrogate pair, which readers refuse
    assert report["captions_mended"] == 2
    assert {name for name, row in rows.items() if row["caption_mended"]} == {
        "alpha.png",
        "cmyk.jpg",
    }
    assert psnr(found["na\\xefve.jpg"][1]["frames"][0], resized(picture(13), 40, 40)) > 26
    for name, (split, _, _) in found.items():
        content = rows[name]["content"]
        assert split.startswith(f"{name_split(content, 0.3)}_") and len(content) == 32

    def frame(name):
        return found[name][1]["frames"][0]

    assert rows["long.png"]["note"] == "35% of 40x200 fits 32x56"
    every = dataclasses.replace(SETTINGS, min_kept=0.0)  # as it was before there was a least share
    assert store_image(bad["long.png"][1], "", "", every)[1] == (32, 56)
    assert frame("wide.jpg").shape == (32, 56, 3) and found["wide.jpg"][0].endswith("_32x56")
    assert frame("turned.jpg").shape == (56, 32, 3) and found["turned.jpg"][0].endswith("_56x32")
    turned = np.rot90(picture(3, 80, 140), -1)
    assert psnr(frame("turned.jpg"), resized(turned, 56, 32)) > 26
    assert psnr(frame("alpha.png")[:, :18], np.full((40, 18, 3), 255)) > 30  # white where clear
    assert psnr(frame("cmyk.jpg"), resized(picture(4), 40, 40)) > 20
    assert psnr(frame("moving.gif"), resized(picture(7), 40, 40)) > 20  # its first frame
    grey = resized(picture(6)[..., :1].repeat(3, -1), 40, 40)
    assert psnr(frame("grey16.png"), grey) > 30
    # A JPEG of the right size is stored as it came.
    assert found["deep/exact.jpg"][2] == (root / "deep" / "exact.jpg").read_bytes()
    assert frame("deep/exact.jpg").shape == (40, 52, 3)
    captions = {name: image["caption"] for name, (_, image, _) in found.items() if image["caption"]}
    mended = {"alpha.png": "half\ufffd of it", "cmyk.jpg": "caf\ufffd"}
    assert captions == {"wide.jpg": "a wide picture", **mended}


def resized(array, height, width):
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))


def jpeg_of(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_colour_profiles_are_brought_to_srgb(tmp_path):
    (tmp_path / "in").mkdir()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    exact = picture(1, 40, 40)
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg(exact, icc_profile=srgb))
    (tmp_path / "in" / "b.jpg").write_bytes(jpeg(picture(2, 40, 40), icc_profile=lab))
    (tmp_path / "in" / "c.jpg").write_bytes(jpeg(picture(3, 40, 40), icc_profile=b"broken"))
    _, rows, found = run(tmp_path / "in", tmp_path / "out")
    assert len(found) == len(rows) == 3  # a profile that does not fit is passed over
    assert found["a.jpg"][2] == (tmp_path / "in" / "a.jpg").read_bytes()


def test_webdataset_archives(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    members = {}
    for index in range(6):
        members[f"0000{index}.jpg"] = jpeg(picture(20 + index))
        members[f"0000{index}.txt"] = f"caption {index}".encode()
        members[f"0000{index}.json"] = json.dumps({"caption": "not this", "key": index}).encode()
    members["00006.png"] = png(picture(26))
    members["00006.json"] = json.dumps({"caption": "from json"}).encode()
    members["00007.json"] = json.dumps({"caption": "failed download"}).encode()
    members["../../escape.jpg"] = jpeg(picture(27))
    members["/etc/absolute.jpg"] = jpeg(picture(28))
    members["link.jpg"] = None
    members["00008.jpg"] = WORDS
    archive(root / "00000.tar", members)
    (root / "00000.parquet").write_bytes(b"what img2dataset writes beside it")
    (root / "00000_stats.json").write_text("{}")
    whole = archive(root / "00001.tar", {f"1{i}.jpg": jpeg(picture(30 + i)) for i in range(4)})
    whole.write_bytes(whole.read_bytes()[:6000])  # in the middle of the third
    (root / "00002.tar").write_bytes(WORDS)
    archive(root / "00003.tar", {})

    report, rows, found = run(root, tmp_path / "out")
    reasons = {name: row["reason"] for name, row in rows.items() if row["reason"]}
    assert reasons == {
        "00000.tar/00007": "not an image",
        "00000.tar/../../escape": "outside the source",
        "00000.tar//etc/absolute": "outside the source",
        "00000.tar/link": "outside the source",
        "00000.tar/00008": "not an image",
        "00001.tar": "damaged",
        "00002.tar": "damaged",
        "00003.tar": "not an image",
    }
    assert set(found) == {f"00000.tar/0000{i}" for i in range(7)} | {"00001.tar/10", "00001.tar/11"}
    for index in range(6):
        assert found[f"00000.tar/0000{index}"][1]["caption"] == f"caption {index}"
    assert found["00000.tar/00006"][1]["caption"] == "from json"
    assert report["inputs"] == report["used"] + sum(report["dropped"].values()) == len(rows)
    assert not (tmp_path / "escape.jpg").exists()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifests(tmp_path, kind):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(jpeg(picture(1)))
    for index, name in enumerate(("one.jpg", "sub/two, with comma.jpg", "three.jpg")):
        (root / name).write_bytes(jpeg(picture(40 + index)))
    (root / "one.txt").write_text("beside it")
    rows = [
        {"path": "one.jpg", "caption": "première «image»"},
        {"path": "sub/two, with comma.jpg", "caption": ""},
        {"path": "gone.jpg", "caption": "x"},
        {"path": "../secret.jpg", "caption": "x"},
        {"path": str(tmp_path / "secret.jpg"), "caption": "x"},
        {"path": str(root / "three.jpg"), "caption": "within"},
    ]
    manifest = root / f"list.{kind}"
    if kind == "csv":
        with manifest.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["caption", "path"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), manifest)
    report, outcomes, found = run(manifest, tmp_path / "out")
    assert {name: image["caption"] for name, (_, image, _) in found.items()} == {
        "one.jpg": "première «image»",
        "sub/two, with comma.jpg": "",
        "three.jpg": "within",
    }
    assert report["dropped"] == {"missing": 1, "outside the source": 2}
    assert len(outcomes) == 6
    secret = str(tmp_path / "secret.jpg")
    _, inputs = find_inputs(str(manifest), frame_folders=False, allow_outside=True)
    listed = {each.path: (each.caption, each.refused) for each in inputs}
    assert listed[secret] == ("x", None) and listed["gone.jpg"] == ("x", "missing")
    if kind == "csv":
        manifest.write_text(f"path,caption\n{secret},hers\n")
        with pytest.raises(UserError, match="none of 1 inputs .* --allow-outside"):
            ingest(str(manifest), tmp_path / "none", SETTINGS, progress=False)
        _, _, found = run(manifest, tmp_path / "all", allow_outside=True)
        assert found[secret][1]["caption"] == "hers"


def test_globs_and_single_files(tmp_path):
    root = tmp_path / "in"
    (root / "a" / "b").mkdir(parents=True)
    for index, name in enumerate(("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/4.png")):
        image = picture(50 + index)
        (root / name).write_bytes(jpeg(image) if name.endswith("jpg") else png(image))
    (root / "a" / "2.txt").write_text("two")
    sources = {
        f"{root}/**/*.jpg": {"1.jpg", "a/2.jpg", "a/b/3.jpg"},
        f"{root}/*/*": {"a/2.jpg", "a/b/3.jpg", "a/b/4.png"},
        f"{root}/1.jpg": {"1.jpg"},
        str(root): {"1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/4.png"},
    }
    for pattern, names in sources.items():
        folder, inputs = find_inputs(pattern, frame_folders=False)
        assert {(folder / each.path).relative_to(root).as_posix() for each in inputs} == names
    _, rows, found = run(f"{root}/*/*", tmp_path / "out")
    assert set(found) == set(rows) == {"a/2.jpg", "a/b/3.jpg", "a/b/4.png"}
    assert found["a/2.jpg"][1]["caption"] == "two"


def test_several_sources_are_what_the_glob_of_them_is(tmp_path):
    """A shell expands an unquoted glob in an order of its own; captions are no inputs."""
    root = tmp_path / "in"
    (root / "b").mkdir(parents=True)
    for name in ("2.jpg", "10.jpg", "10.txt", "b/3.jpg", "b/3.txt"):
        (root / name).write_bytes(b"x")
    (root / "list.csv").write_text("path,caption\nb/3.jpg,of the manifest\n")

    def listed(*sources):
        folder, inputs = find_inputs(*map(str, sources), frame_folders=False)
        return folder.resolve(), [(each.path, each.caption) for each in inputs]

    quoted = listed(root / "*0*"), listed(root / "*.jpg")
    assert quoted[0] == (root, [("10.jpg", None)])
    assert quoted[1] == (root, [("2.jpg", None), ("10.jpg", None)])
    assert listed(root / "10.jpg", root / "10.txt") == quoted[0]
    assert listed(root / "10.jpg", root / "2.jpg") == quoted[1]
    # Folders, what is named twice, another folder, and a manifest, whose caption counts.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "4.jpg").touch()
    folder, found = listed(root / "b", root / "b" / "3.jpg", tmp_path / "other", root / "*.jpg")
    assert folder == tmp_path
    assert sorted(found) == [(f"in/{n}", None) for n in ("10.jpg", "2.jpg", "b/3.jpg")] + [
        ("other/4.jpg", None)
    ]
    assert listed(root / "b", root / "list.csv") == (root, [("b/3.jpg", "of the manifest")])
    with pytest.raises(UserError, match="gone.jpg: no such file"):
        listed(root / "2.jpg", root / "gone.jpg")


def test_many_files_cost_as_many_calls(tmp_path):
    """A shell makes an unquoted glob tens of thousands of files long: none is compared with each.

    Calls of Python and C functions are counted, because times depend on the machine.
    """
    files = [tmp_path / f"{index}.jpg" for index in range(800)]
    for file in files:
        file.touch()

    def calls(number: int) -> int:
        count = 0

        def note(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            _, inputs = find_inputs(*map(str, files[:number]), frame_folders=False)
            found = [each.path for each in inputs]
        finally:
            sys.setprofile(before)
        assert found == [file.name for file in files[:number]]
        return count

    assert calls(800) < 10 * calls(100)  # comparing each with each takes 64 times as many


def test_the_data_may_lie_within_the_source(tmp_path):
    """Files that ingest wrote are no inputs, and a link to a folder above is not followed."""
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg(picture(60 + index)))
    for pattern, out in ((str(tmp_path), tmp_path / "1"), (f"{tmp_path}/**", tmp_path / "d" / "2")):
        first, rows, found = run(pattern, out)
        again = ingest(pattern, out, SETTINGS, progress=False)
        assert not again.fresh and again.report == first
    (tmp_path / "loop").symlink_to(tmp_path)
    _, rows, found = run(tmp_path, tmp_path)
    assert set(found) == {"0.jpg", "1.jpg", "2.jpg"}
    assert rows["loop"]["reason"] == "cannot be opened"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "name,caption\nx.jpg,y\n", "row 1 has no `path`"),
        ("a.csv", "", "no rows"),
        ("a.jsonl", '{"path": "x.jpg"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", "nonsense\n", "not a manifest"),
        ("a.jsonl", '{"path": "x.jpg", "caption": 3}\n', "is not text"),
        ("a.parquet", "nonsense", "not a manifest"),
        ("a.csv", "path\nx.jpg\n\udcfc.jpg\n", "a.csv, line 3: byte 0xfc is no UTF-8; save it"),
        ("a.jsonl", '{"path": "\udcfc"}\n', "a.jsonl, line 1: byte 0xfc is no UTF-8; save it"),
        ("b", None, "no such file or folder"),
        ("*.jpg", None, "matches nothing"),
    ],
)
def test_sources_that_are_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=says) as caught:
        ingest(str(tmp_path / name), tmp_path / "out", SETTINGS, progress=False)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))
