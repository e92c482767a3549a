"""Downloads from the Hugging Face hub: only the files that are read, never code or pickles."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gen1_jax.errors import UserError, one_line

_HUB_ID = re.compile(
    r"^(?P<repo>[\w.-]+/[\w.-]+)(?P<subfolder>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?$"
)


class HubFolder(NamedTuple):
    """A folder of a hub repository.

    Attributes:
      text: what the user gave.
      repo: ORG/NAME.
      subfolder: the path in the repository; empty for its root.
      revision: a branch, a tag or a commit.
    """

    text: str
    repo: str
    subfolder: str
    revision: str

    @property
    def name(self) -> str:
        """The hub id without the revision."""
        return f"{self.repo}/{self.subfolder}".rstrip("/")

    @property
    def prefix(self) -> str:
        """How the paths of its files begin."""
        return f"{self.subfolder}/" if self.subfolder else ""


def parse_hub_id(text: str) -> HubFolder | None:
    """Returns the folder of a hub id `ORG/NAME[/SUBFOLDER][@REVISION]`; None if it is none."""
    match = _HUB_ID.match(text)
    if not match or text.startswith((".", "/", "~")):
        return None
    return HubFolder(text, match["repo"], match["subfolder"][1:], match["revision"] or "main")


def download(folder: HubFolder, files: Iterable[str]) -> Path:
    """Downloads files of a hub repository; returns the folder of the whole snapshot.

    Args:
      folder: the folder.
      files: paths within the repository, or patterns of them.

    Raises:
      UserError: the download failed; the line says what to download by hand.
    """
    from huggingface_hub import snapshot_download  # slow to import

    try:
        path = snapshot_download(folder.repo, revision=folder.revision, allow_patterns=[*files])
    except Exception as error:  # many libraries lie below
        raise _failed(folder, error) from _cause(error)
    return Path(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Has the library show neither bars nor warnings."""
    from huggingface_hub import utils

    shown, level = not utils.are_progress_bars_disabled(), utils.logging.get_verbosity()
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if shown:
            utils.enable_progress_bars()


def list_files(folder: HubFolder, snapshot: Path) -> list[str]:
    """Returns the names of the files in a folder of the hub.

    Without a connection the names are those of the copy on this machine, if it holds weights.

    Args:
      folder: the folder.
      snapshot: its repository's copy.

    Raises:
      UserError: there is neither.
    """
    from huggingface_hub import HfApi

    def below(paths: Iterable[str]) -> list[str]:
        inside = [path for path in paths if path.startswith(folder.prefix)]
        names = [path.removeprefix(folder.prefix) for path in inside]
        return [name for name in names if "/" not in name]

    try:
        return below(HfApi().list_repo_files(folder.repo, revision=folder.revision))
    except Exception as error:
        names = below(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*"))
        if not any(name.endswith(".safetensors") for name in names):
            raise _failed(folder, error) from _cause(error)
        return names


def _failed(folder: HubFolder, error: Exception) -> UserError:
    return UserError(
        f"{folder.text}: there is no such folder, and the hub gives no such model: "
        f"{reason(error)}. Without a network, download {folder.prefix}config.json and the "
        f"safetensors beside it from {folder.repo} at revision {folder.revision}, and give the "
        "folder that holds them"
    )


def _cause(error: Exception) -> Exception | None:
    """Returns the error that a new start may cure; None where the user forbids to ask the hub."""
    from huggingface_hub import constants

    return None if constants.HF_HUB_OFFLINE else error


def reason(error: Exception) -> str:
    """Returns why the hub gave nothing, in a few words."""
    from huggingface_hub import constants, errors

    reasons = {
        errors.HFValidationError: "it is no hub id ORG/NAME",
        errors.GatedRepoError: "its owners ask for consent on its page; then `hf auth login`",
        errors.RepositoryNotFoundError: "there is none of that name, or it is private",
        errors.RevisionNotFoundError: "it has no such revision",
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set",
        errors.LocalEntryNotFoundError: "no connection to it",
    }
    if constants.HF_HUB_OFFLINE:
        reasons[errors.LocalEntryNotFoundError] = "HF_HUB_OFFLINE is set"
    known = next((says for kind, says in reasons.items() if isinstance(error, kind)), None)
    return known or f"{type(error).__name__}: {one_line(error)[:200]}"
