"""Twenty steps of every trained part give the losses that are kept in tests/golden/.

A change that is meant to change no computation shows the identical losses. A change that is meant
to change the losses writes the files anew and says in its message why they differ:

    python -m pytest tests/training/test_golden.py --write-golden
"""

import hashlib
import os
import platform
import struct
from pathlib import Path

import jax
import jaxlib
import micro
import numpy as np
import pytest
from micro_run import SMALL, load
from tensorboardX.proto.event_pb2 import Event

from gen1_jax.workflow import run_part

GOLDEN = Path(__file__).parents[1] / "golden"
PARTS = tuple(part for part in micro.PARTS if micro.get_config(part).kind == "train")
STEPS = 20
# For another compiler or processor, whose sums round differently in the last bits; twenty steps of
# Adam, whose first updates are signs, enlarge that. Between jaxlib 0.10.1 and 0.11.2 the losses of
# the depth model differ by 3e-4 and all others by less than 1e-5.
TOLERANCE = 2e-3


def changes(part: str) -> dict:
    """Settings of a part's config that make its run one of twenty small steps."""
    changes = {"num_steps": STEPS, "checkpoint_every": STEPS, "sample_every": 0, "log_every": 1}
    changes |= SMALL
    if part in ("video", "structure", "blur"):
        changes["data.image_fraction"] = 0.25
    return changes


def machine() -> str:
    """Names the compiler and the kind of processor, which decide the last bits of a float."""
    processor = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        fields = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
        names = ("vendor_id", "cpu family", "model", "cache size", "flags", "Features")
        processor = " ".join([processor, *(fields.get(name, "") for name in names)])
    processor = hashlib.sha256(f"{processor} {os.cpu_count()}".encode()).hexdigest()[:12]
    return f"jaxlib {jaxlib.__version__}, {jax.default_backend()}, processor {processor}"


def read_log(folder: Path) -> list[tuple[str, np.float32]]:
    """Returns each step's kind, image or video, and its loss, from a TensorBoard log."""
    losses = {}
    for path in folder.glob("events.*"):
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                name, _, kind = value.tag.partition("/")
                if name == "loss":
                    losses[event.step] = kind, np.float32(value.simple_value)
    return [losses[step] for step in sorted(losses)]


def read_golden(path: Path) -> list[tuple[str, np.float32]]:
    lines = (line.split() for line in path.read_text().splitlines() if line[0] != "#")
    return [(kind, np.float32(loss)) for kind, loss in lines]


@pytest.mark.parametrize("part", PARTS)
def test_the_losses_are_those_that_are_kept(micro_run, quick, tmp_path, request, part):
    run_part(load(micro_run, part, **changes(part)), tmp_path, progress=False)
    losses = read_log(tmp_path / "logs")
    assert len(losses) == STEPS
    ours = f"# {machine()}\n"
    if request.config.getoption("--write-golden"):
        text = "".join(f"{kind} {loss!s}\n" for kind, loss in losses)
        folder = GOLDEN / f"jaxlib-{jaxlib.__version__}"
        folder.mkdir(exist_ok=True)
        (folder / f"{part}.txt").write_text(ours + text)
    exact = [p for p in GOLDEN.glob(f"*/{part}.txt") if p.read_text().startswith(ours)]
    references = exact or sorted(GOLDEN.glob(f"*/{part}.txt"))
    assert references
    for path in references:
        kept = read_golden(path)
        assert [kind for kind, _ in losses] == [kind for kind, _ in kept]
        got, want = (np.array([loss for _, loss in each]) for each in (losses, kept))
        if exact:
            np.testing.assert_array_equal(got, want, err_msg=str(path))
        else:
            np.testing.assert_allclose(got, want, rtol=TOLERANCE, err_msg=str(path))
