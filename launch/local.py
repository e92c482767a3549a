"""Runs one command as P processes on this machine, each with D virtual CPU devices.

    python launch/local.py --processes 2 --devices 3 -- \\
      gen1 train --config demo:video --workdir runs/demo/video_2 --processes 2

It stands in for several hosts: the processes find each other on a free port of the loopback. When
one process fails, the script stops the others. The exit code is the first that is not 0. Without
--devices each process uses the devices that jax finds. Each line of output begins with the number
of its process. If there is no `gen1` on PATH, it is run by the Python that runs this script.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

_DEVICES = "--xla_force_host_platform_device_count"


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--devices", type=int, help="virtual CPU devices of each")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1 or (args.devices or 1) < 1:
        parser.error("give --processes N (1 or more) and, after --, a command")
    if not shutil.which(command[0]):
        if command[0] != "gen1" or not importlib.util.find_spec("gen1_jax"):
            parser.error(
                f"no command {command[0]} here; `. .venv/bin/activate` puts gen1 and python on PATH"
            )
        command = [sys.executable, "-m", "gen1_jax", *command[1:]]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    meeting = {"GEN1_COORDINATOR": coordinator, "GEN1_PROCESSES": str(args.processes)}
    processes = [start(command, i, meeting, args.devices) for i in range(args.processes)]
    readers = [threading.Thread(target=echo, args=(i, p)) for i, p in enumerate(processes)]
    for reader in readers:
        reader.start()
    # A signal is passed on to every process; each saves and ends by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: [p.send_signal(number) for p in processes])
    code = wait(processes)
    for reader in readers:
        reader.join()
    return code


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
      The first exit code that is not 0, or 0.
    """
    while True:
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), 0)
        if failed or None not in codes:
            break
        time.sleep(0.1)
    deadline = time.monotonic() + grace
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    return failed if failed >= 0 else 128 - failed


if __name__ == "__main__":
    sys.exit(main())
