"""Records what each part was made from, and refuses parts that do not belong together.

A trained part's folder holds `made_from.json`: the digests of the encoders and the tokenizer that
its data were made with, of the model that it started from, and of its data. Encoded data name
their encoders in `meta.json`. A part that was made before there were such records is taken as it
is: there is nothing to compare.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen1_jax.config import MADE_FROM
from gen1_jax.data_pipelines.identity import identify, read_encoders
from gen1_jax.errors import UserError
from gen1_jax.files import as_path, is_remote, read_json
from gen1_jax.weights.digest import digest_model, digest_tokenizer
from gen1_jax.weights.folder import CONFIG

TOKENIZER = "tokenizer"
_LABELS = {
    "vae": "autoencoder",
    "clip": "CLIP",
    "depth": "depth model",
    TOKENIZER: "tokenizer",
}
# Objective → the models that its batches come from. The depth model is added where structure is.
_USED = {"diffusion": ("vae", "clip"), "prior": ("clip", TOKENIZER), "contrastive": (TOKENIZER,)}


class Known(NamedTuple):
    """Models that a folder is known to be, or to be made with.

    Attributes:
      folder: the folder.
      digests: name of the model → its digest.
      is_model: whether the folder is that model itself.
    """

    folder: str
    digests: Mapping[str, str]
    is_model: bool = False


def check_together(name: str, members: Iterable[Known]) -> None:
    """Checks that whatever is known of each model is the same in all folders.

    Args:
      name: the part that needs them, for messages.
      members: the folders.

    Raises:
      UserError: two of them do not belong together.
    """
    members = sorted(members, key=lambda member: not member.is_model)
    for key, label in _LABELS.items():
        first, *others = [each for each in members if key in each.digests] or [None]
        for other in others:
            one, two = first.digests[key][:10], other.digests[key][:10]
            if one == two:
                continue
            if first.is_model:
                raise UserError(
                    f"{name}: {other.folder} was made with another {label} ({two}) than "
                    f"{first.folder} is now ({one}); accepted: the same for both. Put the earlier "
                    f"{label} back, or remove {other.folder} and make it again"
                )
            raise UserError(
                f"{name}: {first.folder} was made with the {label} {one}, and {other.folder} with "
                f"the {label} {two}; accepted: parts made with the same. Remove the one whose "
                f"{label} is not wanted, and make it again"
            )


# ---- trained parts


def check_training(config: Any, workdir: Path) -> dict[str, Any]:
    """Checks that what a part is made from belongs together, and has not changed since it began.

    Args:
      config: the trained part's config, with resolved paths.
      workdir: the part's folder.

    Returns:
      The content of the part's made_from.json.

    Raises:
      UserError: a model or the data are not those that another part, or this one, was made with.
    """
    name, data = config.name, identify(config.data.to_dict())
    begun = _read_begun(workdir)
    # A finished part's `model` may say only what differs from that of `init_from`.
    names = tuple(dict.fromkeys((*_used_by(config), *begun.get("models", {}))))
    members = [Known(folder, _choose(found, names)) for folder, found in data.encoders.items()]
    for kind, folder in config.frozen.items():
        members += [*_models({kind: folder}), *_records((folder,), names)]
    place = config if config.objective == "prior" else config.data  # the prior's data hold tokens
    members += _models({TOKENIZER: place.get("tokenizer")})
    current = {key: digest for each in members for key, digest in each.digests.items()}
    members += _records((config.init_from,), names)
    members.append(Known(str(workdir), begun.get("models", {})))
    check_together(name, members)
    found = {
        "models": {**begun.get("models", {}), **_choose(current, names)},
        "init_from": _origin(config.init_from, _digest_of(config.init_from), workdir),
        "data": _origin(data.folder, data.digest, workdir),
    }
    for key, folder in (("init_from", config.init_from), ("data", data.folder)):
        before, now = begun.get(key) or {}, found[key]
        same_place = now["folder"] and before.get("folder") == now["folder"]
        if same_place and now["digest"] and before.get("digest") not in (None, now["digest"]):
            raise UserError(
                f"{name}: {workdir} was made from {folder}, which has changed since "
                f"({key} was {before['digest'][:10]}, is {now['digest'][:10]}); accepted: "
                f"remove {workdir} to train it anew, or {workdir / MADE_FROM} to keep it as it is"
            )
    if begun:  # a part that goes on keeps the model that it started from
        found["init_from"] = begun.get("init_from")
    return found


def has_record(workdir: Path) -> bool:
    """Returns whether it is known what a part was made from."""
    return (workdir / MADE_FROM).exists()


def _read_begun(workdir: Path) -> dict[str, Any]:
    """Returns the record of a part; {} if there is none, or if nothing has come of it yet."""
    is_begun = any((workdir / name).exists() for name in ("checkpoints", "model"))
    return (read_json(workdir / MADE_FROM) or {}) if is_begun else {}


def _used_by(config: Any) -> tuple[str, ...]:
    """Returns the names of the models that a part's batches come from."""
    names = _USED.get(config.objective, ())
    model = config.model
    if config.objective == "diffusion" and model.get("in_channels") != model.get("out_channels"):
        names += ("depth",)
    return names


def _origin(folder: str, digest: str | None, workdir: Path) -> dict[str, str | None]:
    """Returns a folder's record; the path holds also where the whole run is moved."""
    if folder and is_remote(folder) == is_remote(workdir):
        folder = os.path.relpath(folder, workdir)
    return {"folder": folder, "digest": digest}


# ---- other parts


def check_encoded(name: str, meta: Mapping[str, Any], folder: Path, config: Any) -> None:
    """Checks that encoded data were made with the encoders that lie in a run now.

    Args:
      name: the part, for messages.
      meta: the content of the data's meta.json.
      folder: the folder of the data.
      config: the encoding part's config, with resolved paths.

    Raises:
      UserError: they were made with others.
    """
    made_with = read_encoders(meta)
    folders = {**config.frozen.to_dict(), TOKENIZER: config.tokenizer}
    wanted = {kind: each for kind, each in folders.items() if kind in made_with}
    check_together(name, [Known(str(folder), made_with), *_models(wanted)])


def check_pipeline(name: str, folders: Mapping[str, str | Path]) -> None:
    """Checks that the parts of a pipeline were made with each other.

    Args:
      name: the part, for messages.
      folders: the folder of each part, by the part's name.

    Raises:
      UserError: the UNet or the prior was made with other encoders.
    """
    members = list(_records(folders.values(), tuple(_LABELS)))
    needed = {key for each in members for key in each.digests}
    check_together(name, [*members, *_models({k: f for k, f in folders.items() if k in needed})])


# ---- what lies in a folder


def _choose(digests: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: digests[name] for name in names if name in digests}


def _digest_of(folder: str) -> str | None:
    return digest_model(folder) if folder and (as_path(folder) / CONFIG).is_file() else None


def _models(folders: Mapping[str, str | Path | None]) -> Iterable[Known]:
    """Yields the models that are there, by their names."""
    for kind, folder in folders.items():
        if folder and kind in _LABELS and as_path(folder).is_dir():
            digest = digest_tokenizer(folder) if kind == TOKENIZER else _digest_of(str(folder))
            if digest:
                yield Known(str(folder), {kind: digest}, is_model=True)


def _records(folders: Iterable[str | Path], names: Iterable[str]) -> Iterable[Known]:
    """Yields what is known of the parts whose models lie in the folders."""
    for folder in map(as_path, filter(None, folders)):
        record = read_json(folder.parent / MADE_FROM) if folder.name == "model" else None
        if found := _choose((record or {}).get("models") or {}, names):
            yield Known(str(folder.parent), found)
