"""Models of transformers from local folders: nothing is downloaded, unpickled or run from them."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.errors import UserError, one_line
from gen1_jax.files import read_json

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


class Loaded(NamedTuple):
    """A model and what turns its inputs into tensors."""

    model: Any
    processor: Any


def check_folder(folder: Path, flag: str, accepted: str) -> None:
    """Checks what can be checked before anything is loaded.

    Args:
      folder: holds config.json and safetensors files.
      flag: the flag that named it, for messages.
      accepted: what is accepted, in words.

    Raises:
      UserError: the folder holds no model, or torch is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{flag} {folder}: no such folder; {accepted}")
    if read_json(folder / "config.json") is None:
        raise UserError(f"{flag} {folder} holds no config.json; {accepted}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{flag} {folder} holds no safetensors; {accepted}, as safetensors")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError(
            f"{flag} needs torch, which computes it: pip install 'gen1-jax[torch]'"
        ) from None


def letters_of(path: Path) -> str:
    """Returns sixteen letters that another content of a file or folder most likely changes.

    They follow from names, sizes and times of change: a language model is too large to be read for
    that alone.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(f.relative_to(path).as_posix(), f.stat()) for f in files if f.is_file()]
    said = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def load_local(folder: Path, flag: str, model: str, processor: str, accepted: str) -> Loaded:
    """Loads a model onto the GPU where torch has one, in the type it is stored in.

    Args:
      folder: holds config.json, safetensors and the processor's files.
      flag: the flag that named it, for messages.
      model: name of a class of transformers.
      processor: name of a class of transformers.
      accepted: what is accepted, in words.

    Raises:
      UserError: see `check_folder`; or files are damaged, or parameters are missing.
    """
    check_folder(folder, flag, accepted)
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        network, found = getattr(transformers, model).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, dtype="auto", **_LOCAL
        )
    except Exception as error:  # transformers raises nothing more specific
        raise UserError(f"{flag} {folder} cannot be read: {one_line(error)}; {accepted}") from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{flag} {folder} lacks {len(missing)} parameters: {missing[0]} …")
    network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Loaded(network, load_part(folder, flag, processor, accepted))


def load_part(folder: Path, flag: str, kind: str, accepted: str) -> Any:
    """Loads a processor or a tokenizer; see `load_local`."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(folder, **_LOCAL)
    except Exception as error:
        raise UserError(f"{flag} {folder} cannot be read: {one_line(error)}; {accepted}") from error
