"""What an edit depends on, as JSON: enough to make it again, and to see what has changed since.

It stands in OUT.json beside OUT.mp4, with the paths as they were given, and in the file's own tags,
without paths.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1_jax.errors import UserError
from gen1_jax.files import read_json
from gen1_jax.settings import show
from gen1_jax.video.opening import picture_names
from gen1_jax.video.paths import as_path
from gen1_jax.video.tags import read_tags

TAG = "gen1"  # the tag's name in a file
FORM = 1  # of the record; another form is not read


def make_record(
    *,
    flags: Mapping[str, Any],
    inputs: Mapping[str, Any],
    model: str,
    computing: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a record.

    Args:
      flags: name → value of everything that was chosen.
      inputs: those of the flags that name files: name → path, or list of paths.
      model: the fingerprint of the models.
      computing: what numbers depend on besides: versions, type, mesh.
    """
    digests = {
        name: [digest_file(path) for path in _as_list(paths)]
        for name, paths in inputs.items()
        if paths
    }
    return {
        "form": FORM,
        "flags": {name: _plain(value) for name, value in flags.items()},
        "inputs": digests,
        "model": model,
        "computing": dict(computing),
    }


def to_tag(record: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Returns a record as the text of a tag: of paths it keeps the last names only."""
    flags = dict(record["flags"])
    for name in (*inputs, "output", "model", "lora"):
        if flags.get(name):
            names = [Path(each).name for each in _as_list(flags[name])]
            flags[name] = names if isinstance(flags[name], list) else names[0]
    return json.dumps(dict(record) | {"flags": flags})


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the record of an edit, from the JSON beside it, or else from its tags.

    Args:
      path: OUT.mp4 or another output, or OUT.json.

    Raises:
      UserError: there is no record, or it is none that this release reads.
    """
    path = as_path(path, "an output of gen1 edit")
    beside = record_path(path)
    record = read_json(beside) if beside.exists() else None
    if record is None:
        text = read_tags(path).get(TAG, "")
        try:
            record = json.loads(text)
        except ValueError:
            raise UserError(f"{path}: holds no record of an edit of gen1") from None
    if not isinstance(record, dict) or record.get("form") != FORM:
        raise UserError(f"{path}: its record of the edit has a form that this release cannot read")
    if not all(isinstance(record.get(name), dict) for name in ("flags", "inputs", "computing")):
        raise UserError(f"{path}: its record of the edit is damaged")
    return record


def record_path(output: Path) -> Path:
    """Returns OUT.json for OUT.mp4, and FOLDER.json for a folder."""
    return output.with_suffix(".json")


def check_unchanged(record: Mapping[str, Any], now: Mapping[str, Any], skip: set[str]) -> None:
    """Refuses to repeat an edit whose model or files are other ones by now.

    Args:
      record: the record of the earlier edit.
      now: that of the edit to come.
      skip: flags that were chosen anew.

    Raises:
      UserError: one line that names what has changed.
    """
    changed = [
        name
        for name, digests in record["inputs"].items()
        if name not in skip and now["inputs"].get(name) != digests
    ]
    if "model" not in skip and record["model"] != now["model"]:
        changed.append("model")
    if changed:
        raise UserError(
            f"what the edit was made of has changed: {', '.join(changed)}; give "
            f"{' and '.join('INPUT' if name == 'input' else flag(name) for name in changed)} to "
            "take the present one"
        )


def flag(name: str) -> str:
    """Returns a flag as it is typed."""
    return f"--{name.replace('_', '-')}"


def digest_file(path: str | os.PathLike) -> str:
    """Returns the digest of a file's bytes, or of a folder's pictures, 16 letters."""
    path = Path(path)
    files = [path / name for name in picture_names(path)] if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
    """Returns a flag's value as JSON holds it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"no JSON of {show(value)}")
