"""Checkpoints on s3://, which orbax cannot write by itself.

Orbax 0.12 gives tensorstore a place on a disk or in a bucket of gs:// alone (orbax#359, and pull
request 2739 for s3://). Tensorstore itself reads and writes s3://. So orbax is made to treat s3://
as it does gs://, where a file named commit_success.txt ends a save, and its places for tensorstore
are changed to those of s3://.
"""

import functools
import os
from typing import Any

import jax
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

SCHEME = "s3://"


@functools.cache
def teach_orbax() -> None:
    """Makes orbax accept folders of s3://, in this process."""
    gcs_utils._GCS_PATH_PREFIX = (*gcs_utils._GCS_PATH_PREFIX, SCHEME)
    build = tensorstore_utils.build_kvstore_tspec

    def build_any(directory: str, *args: Any, **options: Any) -> Any:
        if not directory.startswith(SCHEME):
            return build(directory, *args, **options)
        spec = build(f"gs://{directory.removeprefix(SCHEME)}", *args, **options)
        return jax.tree.map(_to_s3, spec, is_leaf=_is_place)

    tensorstore_utils.build_kvstore_tspec = build_any


def _is_place(spec: Any) -> bool:
    return isinstance(spec, dict) and spec.get("driver") == "gcs"


def _to_s3(spec: Any) -> Any:
    """Returns a place in S3 for one of Google's; the usual variables name another endpoint."""
    if not _is_place(spec):
        return spec
    place = {"driver": "s3", "bucket": spec["bucket"], "path": spec["path"]}
    variables = os.environ.get
    if endpoint := variables("AWS_ENDPOINT_URL_S3") or variables("AWS_ENDPOINT_URL"):
        region = variables("AWS_REGION") or variables("AWS_DEFAULT_REGION") or "us-east-1"
        place |= {"endpoint": endpoint, "aws_region": region}
    return place
