"""Messages between an ingest and the processes that decode: a JSON object, then bytes.

Nothing of a message is run: a decoder that was taken over can send wrong records, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from gen1_jax.data_pipelines.footage.making import Made
from gen1_jax.data_pipelines.footage.prints import ROW

_MOST_BYTES = 2**31  # of one part of a message


def send(connection: Connection, header: dict[str, Any], parts: Sequence[bytes] = ()) -> None:
    """Sends a message."""
    connection.send_bytes(json.dumps({**header, "parts": len(parts)}).encode())
    for part in parts:
        connection.send_bytes(part)


def receive(connection: Connection) -> tuple[dict[str, Any], list[bytes]]:
    """Waits for a message.

    Raises:
      EOFError: the other process has ended.
    """
    header = json.loads(connection.recv_bytes(_MOST_BYTES))
    return header, [connection.recv_bytes(_MOST_BYTES) for _ in range(header["parts"])]


def send_made(connection: Connection, made: Made) -> None:
    """Sends a record."""
    texts = {name: value for name, value in made.record.items() if isinstance(value, bytes)}
    numbers = {name: int(value) for name, value in made.record.items() if name not in texts}
    header = {"is": "made", "names": list(texts), "numbers": numbers, "bucket": made.bucket}
    send(connection, header, [*texts.values(), made.prints.tobytes()])


def to_made(header: dict[str, Any], parts: list[bytes]) -> Made:
    """Returns the record of a message."""
    *texts, prints = parts
    record: dict[str, Any] = dict(zip(header["names"], texts, strict=True))
    record |= {name: np.int64(value) for name, value in header["numbers"].items()}
    bucket = header["bucket"]
    return Made(record, np.frombuffer(prints, ROW).copy(), bucket and tuple(bucket))
