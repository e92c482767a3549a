"""Runs object stores on two ports: gcp-storage-emulator for gs://, moto for s3://.

    python tests/run_emulators.py GCS_PORT S3_PORT

The first answers neither which generation of an object it sent, nor conditions on generations, by
which tensorstore writes; both are added here, as Google's documentation of the JSON API says.
"""

import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

plain_download, plain_insert = objects.download, objects.insert


def generation(storage, bucket: str, name: str) -> str:
    """Returns the generation of an object, "0" if there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def download(request, response, storage, *args, **kwargs):
    there = generation(storage, request.params["bucket_name"], request.params["object_id"])
    unless = request.query.get("ifGenerationNotMatch", [None])[0]
    if there != "0" and unless == there:
        response.status = HTTPStatus.NOT_MODIFIED
        return
    plain_download(request, response, storage, *args, **kwargs)
    response["x-goog-generation"] = there


def insert(request, response, storage, *args, **kwargs):
    wanted = request.query.get("ifGenerationMatch", [None])[0]
    name = request.query.get("name", [""])[0]
    if wanted is not None and wanted != generation(storage, request.params["bucket_name"], name):
        assert request.data is not None  # reads the body
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    plain_insert(request, response, storage, *args, **kwargs)


if __name__ == "__main__":
    objects.download, objects.insert = download, insert
    # These take the functions above when they are imported.
    from gcp_storage_emulator.server import create_server
    from moto.server import ThreadedMotoServer

    gcs, s3 = map(int, sys.argv[1:])
    create_server("127.0.0.1", gcs, in_memory=True, default_bucket="gen1").start()
    ThreadedMotoServer(ip_address="127.0.0.1", port=s3, verbose=False).start()
    print("ready", flush=True)
    threading.Event().wait()
