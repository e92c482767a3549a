"""Measures the units of work of an ingest, and what it costs to grow a data set.

    python benchmarks/ingest_units.py [--images 10000]

Three measurements. The paper's images are listed as 24,000 archives of 10,000, which are sparse
files of the right size, and cut into units. An archive of small images (64 x 64) is cut by reading
its headers. And it is ingested, then again together with a tenth as many new images: `skipped` are
recognised by their content and not decoded. Core-seconds are those of one process, with its
imports. The last line is one JSON object.
"""

import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

from common import make_parser, print_figures

import numpy as np
from PIL import Image

from gen1_jax.data_pipelines.footage.archives import find_bounds, read_tar
from gen1_jax.data_pipelines.footage.groups import cut_groups, write_list
from gen1_jax.data_pipelines.footage.images import ImageSettings
from gen1_jax.data_pipelines.footage.ingest import ingest
from gen1_jax.data_pipelines.footage.inputs import find_inputs

ARCHIVES, EACH = 24_000, 10_000  # 240 M images: Gen-1 paper, section 4.1
IMAGE_BYTES = 27_000  # docs/footage.md, of an image
CORE_SECONDS = 0.0148  # docs/footage.md, of an image
SETTINGS = ImageSettings(buckets=((64, 64),))


def cut_the_papers_list(folder: Path) -> dict[str, float]:
    """Lists sparse archives and cuts them into units."""
    folder.mkdir()
    for index in range(ARCHIVES):
        with (folder / f"{index:05d}.tar").open("wb") as file:
            file.truncate(EACH * IMAGE_BYTES)
    began = time.perf_counter()
    root, inputs = find_inputs(str(folder), frame_folders=False)
    listed = write_list(root, inputs, folder.parent / "list")
    groups = cut_groups(folder.parent / "list", listed, "images")
    each = ARCHIVES * EACH / len(groups)
    return {
        "units": len(groups),
        "images_a_unit": round(each),
        "core_seconds_a_unit": round(each * CORE_SECONDS),
        "seconds_to_list_and_cut": round(time.perf_counter() - began, 2),
    }


def make_archive(path: Path, seeds: range) -> None:
    """Writes an archive of captioned images of smooth blotches."""
    with tarfile.open(path, "w") as archive:
        for seed in seeds:
            cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            buffer = io.BytesIO()
            picture = Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)
            picture.save(buffer, "JPEG", quality=92)
            for suffix, data in ((".jpg", buffer.getvalue()), (".txt", b"blotches %d" % seed)):
                member = tarfile.TarInfo(f"{seed:09d}{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def timed(function, *arguments, **options):
    """Returns the core-seconds of a call, and its result."""
    began = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - began, result


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="in the archive")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        figures = {"paper": cut_the_papers_list(root / "sparse")}

        (root / "in").mkdir()
        archive = root / "in" / "0.tar"
        make_archive(archive, range(args.images))
        seconds, _ = timed(find_bounds, archive, archive.stat().st_size, 8)
        reading, samples = timed(lambda: sum(1 for _ in read_tar(archive)))
        figures["archive"] = {
            "images": samples,
            "bytes": archive.stat().st_size,
            "seconds_to_cut": round(seconds, 3),
            "seconds_to_read": round(reading, 3),
        }

        out, options = root / "out", {"progress": False}
        first, _ = timed(ingest, str(root / "in"), out, SETTINGS, **options)
        make_archive(root / "in" / "1.tar", range(args.images, args.images * 11 // 10))
        second, result = timed(ingest, str(root / "in"), out, SETTINGS, **options)
        last = result.report["rounds"][-1]
        new = last["used"] + last["dropped"].get("duplicate", 0)
        skipped = last["dropped"]["there already"]
        a_new = first / args.images
        figures["growth"] = {
            "first_core_seconds": round(first, 1),
            "second_core_seconds": round(second, 1),
            "new": new,
            "skipped": skipped,
            "milliseconds_a_new_image": round(1e3 * a_new, 2),
            "milliseconds_a_skipped_image": round(1e3 * (second - new * a_new) / skipped, 3),
            "history_bytes_an_image": round(
                sum(os.path.getsize(p) for p in (out / "images/history").rglob("*") if p.is_file())
                / result.report["records"]
            ),
        }
    print_figures(figures)


if __name__ == "__main__":
    main()
