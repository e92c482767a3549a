"""Runs one command as P processes on this machine, each with D virtual CPU devices.

    python launch/local.py --processes 2 --devices 3 -- \\
      gen1 train --config demo:video --workdir runs/demo/video_2 --processes 2

It stands in for several hosts: the processes find each other on a free port of the loopback. When
one process fails, the script stops the others. A `gen1` command that a crash or exit code 75 ended
is started again, until --restarts starts in a row have made no new checkpoint. Without --devices
each process uses the devices that jax finds. Each line of output begins with the number of its
process. If there is no `gen1` on PATH, it is run by the Python that runs this script.
"""

import argparse
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

_DEVICES = "--xla_force_host_platform_device_count"
FINAL = (2, 70)  # bad input, and a job that was given up; see launch/README.md
TRY_AGAIN = 75
PAUSE = 0.5  # seconds before a new start
QUICK = 20  # seconds within which nothing was computed


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--devices", type=int, help="virtual CPU devices of each")
    parser.add_argument(
        "--restarts",
        type=int,
        default=int(os.environ.get("GEN1_RESTARTS") or 10),
        help="starts without a new checkpoint after which a gen1 command is given up (%(default)s)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1 or (args.devices or 1) < 1 or args.restarts < 0:
        parser.error("give --processes N (1 or more) and, after --, a command")
    is_ours = os.path.basename(command[0]) == "gen1"  # others do not count their starts
    if not shutil.which(command[0]):
        if command[0] != "gen1" or not importlib.util.find_spec("gen1_jax"):
            parser.error(
                f"no command {command[0]} here; `. .venv/bin/activate` puts gen1 and python on PATH"
            )
        command = [sys.executable, "-m", "gen1_jax", *command[1:]]

    processes: list[subprocess.Popen] = []
    signals: list[int] = []

    def pass_on(number: int, frame) -> None:
        """Passes a signal on to every process; each saves and ends by itself."""
        signals.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    quick = 0  # starts in a row that ended at once, as those of a broken installation do
    for count in itertools.count():
        began = time.monotonic()
        meeting = {"GEN1_COORDINATOR": free_address(), "GEN1_PROCESSES": str(args.processes)}
        if is_ours:
            meeting |= {"GEN1_START": str(count), "GEN1_RESTARTS": str(args.restarts)}
        processes[:] = [start(command, i, meeting, args.devices) for i in range(args.processes)]
        for process in processes if signals else ():  # which came while they were started
            process.send_signal(signals[-1])
        readers = [threading.Thread(target=echo, args=(i, p)) for i, p in enumerate(processes)]
        for reader in readers:
            reader.start()
        code = wait(processes)
        for reader in readers:
            reader.join()
        if signals or not is_ours or code in (0, *FINAL):
            return code
        quick = quick + 1 if time.monotonic() - began < QUICK else 0
        if quick > args.restarts:
            print(f"local.py: given up: {quick} starts in a row ended at once", file=sys.stderr)
            return FINAL[1]
        print(f"local.py: the job ended with {code}; starting it again", file=sys.stderr)
        time.sleep(PAUSE)
        if signals:
            return code


def free_address() -> str:
    """Returns a port of the loopback that is free, as HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(
    command: list[str], index: int, meeting: dict[str, str], devices: int | None
) -> subprocess.Popen:
    """Starts the process of this number.

    Args:
      command: the program and its arguments.
      index: the process's number, from 0.
      meeting: the variables by which the processes find each other.
      devices: number of virtual CPU devices; None leaves the choice to jax.
    """
    environment = os.environ | meeting | {"GEN1_PROCESS": str(index)}
    if devices:
        flags = f"{environment.get('XLA_FLAGS', '')} {_DEVICES}={devices}"
        environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # or Ctrl-C would reach each process twice
    )


def echo(index: int, process: subprocess.Popen) -> None:
    """Prints the lines of a process as they come, each after the process's number."""
    for line in process.stdout:
        print(f"[{index}] {line}", end="", flush=True)


def wait(processes: list[subprocess.Popen], grace: float = 30) -> int:
    """Waits for all processes; after a failure the others have `grace` seconds to end.

    Returns:
      0 if all ended so. Otherwise a code that is final, else TRY_AGAIN, else the first of a crash:
      where one process fails, the others may crash.
    """
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) or None not in codes:
            break
        time.sleep(0.1)
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    codes = [128 - p.wait() if p.wait() < 0 else p.returncode for p in processes]
    failed = [code for code in (*FINAL, TRY_AGAIN) if code in codes] or list(filter(None, codes))
    return failed[0] if failed else 0


if __name__ == "__main__":
    sys.exit(main())
