"""Object stores that run here: gcp-storage-emulator for gs://, moto for s3://."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BUCKET = "gen1"
_SCRIPT = Path(__file__).with_name("run_emulators.py")
PACKAGES = ("gcsfs", "s3fs", "moto", "flask", "flask_cors", "gcp_storage_emulator")


def missing() -> list[str]:
    """Returns the packages that the emulators need and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def emulated() -> Iterator[dict[str, str]]:
    """Runs both emulators, each with a bucket; yields the environment that leads to them."""
    ports = [_free_port(), _free_port()]
    gcs, s3 = (f"http://127.0.0.1:{port}" for port in ports)
    servers = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(_SCRIPT), *map(str, ports)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert servers.stdout.readline() == b"ready\n", "the emulators do not start"
        yield {
            # gcsfs and google-cloud-storage read the first, tensorstore the second.
            "STORAGE_EMULATOR_HOST": gcs,
            "TENSORSTORE_GCS_HTTP_URL": gcs,
            # The emulator has no kinds of bucket, for which gcsfs would ask Google.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "AWS_ENDPOINT_URL": s3,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
    finally:
        servers.kill()
        servers.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
