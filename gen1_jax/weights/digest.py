"""Digests of models and tokenizers, by which one is told from another, wherever it lies."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen1_jax.files import local_copy
from gen1_jax.tokenizer import load_tokenizer
from gen1_jax.weights.folder import (
    CONFIG,
    checked_tensors,
    module_from_config,
    param_template,
    read_config,
)
from gen1_jax.weights.naming import to_flax, torch_key
from gen1_jax.weights.tensor_files import TensorFiles


def digest_params(params: Any) -> str:
    """Returns the SHA-256 of parameters: of their names, types, shapes and numbers."""
    return _digest(jax.tree_util.tree_leaves_with_path(params))


def digest_model(folder: str | os.PathLike) -> str:
    """Returns `digest_params` of a model folder; one tensor is in memory at a time.

    A process computes the digest of the same files once.

    Raises:
      UserError, MismatchError: see `load_model`.
    """
    folder = local_copy(folder, CONFIG)
    config = read_config(folder)
    files = [folder / CONFIG, *TensorFiles(folder).files]
    stamps = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _digest_files(folder, json.dumps(config), stamps)


@functools.lru_cache(maxsize=64)
def _digest_files(folder: Path, config: str, stamps: tuple) -> str:
    module = module_from_config(json.loads(config), where=str(folder))
    tensors = checked_tensors(folder, module)

    def read(path: tuple) -> np.ndarray:
        names = tuple(key.key for key in path)
        return to_flax(names, tensors[torch_key(names)])

    leaves = jax.tree_util.tree_leaves_with_path(param_template(module))
    return _digest((path, read(path)) for path, _ in leaves)


def _digest(arrays: Iterable[tuple[tuple, Any]]) -> str:
    digest = hashlib.sha256()
    for path, array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()


def digest_tokenizer(folder: str | os.PathLike) -> str:
    """Returns the SHA-256 of what a tokenizer makes of texts: its tokens, and their ids.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    return hashlib.sha256(load_tokenizer(folder).describe().encode()).hexdigest()
