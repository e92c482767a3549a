"""Checks that training is the same on any number of devices, and that a kill loses nothing.

    python benchmarks/robustness.py [--kills 20] [--steps 20] [--seed 0] [--keep DIR]

Everything runs through the command line, on CPU, with the small models of tests/micro.py:

- The last stage of the UNet, with batches of videos and of images, trains on 1 device, on 8 virtual
  devices and as 2 processes of 4 devices; on 8 devices fsdp shards the parameters in two. The
  figures are the largest difference of a loss and of a final parameter.
- The same stage is killed (SIGKILL) at a random moment between the start and the end of the
  process, and started again. Its parameters must equal those of an undisturbed run bit for bit.
  Each kill is a run of its own. A run that ends before its moment is not a kill; runs are repeated
  until --kills processes have died of the signal.

The last line is one JSON object: "loss_difference", "parameter_difference", "kills" (processes that
died of SIGKILL), "saved_before" (those of them that had a checkpoint), "too_late" (runs that ended
before their moment), "lost" (kills after which the parameters differed).
"""

import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import GEN1, ROOT, make_parser, print_figures, run_command

import numpy as np
from safetensors.numpy import load_file
from tensorboardX.proto.event_pb2 import Event
from tqdm import tqdm

CONFIG = "tests/micro.py"
WEIGHTS = "model/diffusion_pytorch_model.safetensors"


def environment(devices: int) -> dict[str, str]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def command(folder: Path, steps: int, processes: int = 1, fsdp: int = 1) -> list[str]:
    return [
        *GEN1, "train", "--config", f"{CONFIG}:blur", "--workdir", str(folder), "--no-progress",
        "--processes", str(processes), "--set", f"num_steps={steps}", "log_every=1",
        "checkpoint_every=3", "data.image_fraction=0.25", f"mesh.fsdp={fsdp}",
    ]  # fmt: skip


def run(arguments: list[str], devices: int = 1) -> None:
    run_command(arguments, environment(devices))


def losses(folder: Path) -> dict[int, float]:
    """Returns step → loss from a run's TensorBoard files.

    They are TFRecord files: length, checksum, event, checksum.
    """
    found = {}
    for path in sorted((folder / "logs").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
            for value in event.summary.value:
                if value.tag.startswith("loss/"):
                    found[event.step] = value.simple_value
    return found


def measure_exactness(work: Path, steps: int) -> dict[str, float]:
    one, eight, two = (work / name for name in ("one", "eight", "two_of_four"))
    run(command(one, steps))
    run(command(eight, steps, fsdp=2), devices=8)
    launcher = [sys.executable, "launch/local.py", "--processes", "2", "--devices", "4", "--"]
    run([*launcher, *command(two, steps, processes=2, fsdp=2)])
    want = losses(one)
    assert len(want) == steps
    expected = load_file(one / WEIGHTS)
    figures = {"loss_difference": 0.0, "parameter_difference": 0.0}
    for folder in (eight, two):
        got = losses(folder)
        by_loss = max(abs(got[step] - want[step]) for step in want)
        weights = load_file(folder / WEIGHTS)
        by_weight = max(float(np.abs(weights[k] - x).max()) for k, x in expected.items())
        print(f"{folder.name:<12} losses of {steps} steps within {by_loss:.1e}, "
              f"parameters within {by_weight:.1e}")  # fmt: skip
        for name, value in zip(figures, (by_loss, by_weight), strict=True):
            figures[name] = max(figures[name], value)
    return figures


def measure_kills(work: Path, steps: int, kills: int, seed: int) -> dict[str, int]:
    whole = work / "whole"
    run(command(whole, steps))  # compiles for all runs that follow
    started = time.perf_counter()
    run(command(work / "timed", steps))
    life = time.perf_counter() - started
    expected = (whole / WEIGHTS).read_bytes()
    moments = random.Random(seed)
    killed = saved_before = too_late = lost = 0
    bar = tqdm(total=kills, desc="kills", unit="run")
    while killed < kills:
        folder = work / f"killed_{killed + too_late}"
        arguments = command(folder, steps)
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment(1),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(moments.uniform(0, life))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code == 0:
            too_late += 1
            continue
        if code != -signal.SIGKILL:
            sys.exit(f"{' '.join(arguments)} ended with {code}, and not of SIGKILL")
        killed += 1
        saved_before += any(path.name.isdecimal() for path in folder.glob("checkpoints/*"))
        run(arguments)
        lost += (folder / WEIGHTS).read_bytes() != expected
        bar.update()
    bar.close()
    print(f"{killed} processes killed within {life:.0f} s of life, {saved_before} of them with a "
          f"checkpoint ({too_late} more had ended before): {lost} lost")  # fmt: skip
    return {"kills": killed, "saved_before": saved_before, "too_late": too_late, "lost": lost}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--keep", type=Path, help="a new folder to keep the runs in")
    args = parser.parse_args()
    keep = args.keep
    # Finished runs in the folder would not train again, so nothing would be killed.
    if keep and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        parser.exit(2, f"--keep {keep}: a folder that is new or empty is accepted\n")
    with tempfile.TemporaryDirectory() as temporary:
        work = (keep or Path(temporary)).resolve()
        print("making a small run to start from …", flush=True)
        run([*GEN1, "all", "--config", CONFIG, "--workdir", str(work), "--no-progress"])
        figures = measure_exactness(work, args.steps)
        figures |= measure_kills(work, args.steps, args.kills, args.seed)
    print_figures(figures)


if __name__ == "__main__":
    main()
