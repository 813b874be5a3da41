"""Checkpoints on the Hugging Face hub: only the needed files, at a pinned commit."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subcircuit.errors import ModelError
from subcircuit.model.load.directory import WEIGHTS, read_config, weight_files
from subcircuit.model.load.transformers_calls import quiet
from subcircuit.model.tensor_map import Family

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


class NotOnHubError(ModelError):
    """The hub has no such model, or cannot be reached; the message is a clause that says which."""


def download(hub_id: str, revision: str | None, own: Family | None = None) -> tuple[Path, str]:
    """The directory of a checkpoint, downloaded if it is not in the hub's own cache, and its commit.

    Args:
        hub_id: such as ``"openai-community/gpt2"``.
        revision: a branch, tag or commit; None is the default branch.
        own: the caller's family, before the built-in ones.

    Raises:
        NotOnHubError: the model does not exist, or the hub cannot be reached and the model is not in the cache.
        ModelError: access is refused, or the revision does not exist.
        UnsupportedModelError: the architecture is not supported; checked before the weights are downloaded.
    """
    folder = _snapshot(hub_id, revision, _SMALL_FILES)
    read_config(folder, own)
    # pin the commit, so that a push between the downloads cannot mix versions
    if WEIGHTS not in weight_files(folder):
        folder = _snapshot(hub_id, folder.name, [*_SMALL_FILES, WEIGHTS])  # the one file comes before an index
    folder = _snapshot(hub_id, folder.name, [*_SMALL_FILES, *weight_files(folder)])
    return folder, folder.name


def _snapshot(hub_id: str, revision: str | None, patterns: list[str]) -> Path:
    try:
        with quiet():
            return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except HFValidationError:
        raise NotOnHubError("there is no such file or directory, and the name is not a hub id (owner/name)") from None
    except GatedRepoError:
        raise ModelError(f"{hub_id} is gated: accept its terms on huggingface.co and log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise ModelError(f"{hub_id} has no revision {revision!r} on the Hugging Face hub") from None
    except RepositoryNotFoundError:
        raise NotOnHubError("the Hugging Face hub has no such model, or it is private and you are not logged in") from None
    except Exception:  # offline, no route, a server's error: the hub's HTTP library and its errors change between versions
        at = "" if revision is None else f" at revision {revision}"
        raise NotOnHubError(f"{_unreachable()}, and it{at} is not in the hub's local cache") from None


def _unreachable() -> str:
    offline = next((name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)), None)
    return f"{offline} is set" if offline else "the Hugging Face hub cannot be reached"
