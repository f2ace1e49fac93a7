"""Task files on a hub, by the hub's own client: ``hf://datasets/OWNER/NAME@COMMIT/path/in/it``."""

from __future__ import annotations

import re
from pathlib import Path

from apex_native.errors import DataError
from apex_native.hub.client import explained

__all__ = ["HUB_PREFIX", "fetch_from_hub"]

HUB_PREFIX = "hf://"

_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?/(?P<path>.+)"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_from_hub(address: str) -> Path:
    """The local path of a data set's file, downloaded once into the client's cache.

    The revision must be a whole commit hash: a branch or tag can move, and scores on moved data
    are no longer the same scores. The client's own variables count (HF_HOME, HF_ENDPOINT,
    HF_HUB_OFFLINE, HF_TOKEN). Raises DataError where the client is missing or cannot get it.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise DataError(
            f"'{address}' is no address; write hf://datasets/OWNER/NAME@COMMIT/path/of/the/file"
        )
    revision = match["revision"]
    if revision is None or not _COMMIT.fullmatch(revision):
        raise DataError(
            f"'{address}': the revision must be a commit hash of 40 digits, found "
            f"{revision or 'none'}; the hub shows it at the file's history"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise DataError(
            f"'{address}': needs huggingface_hub; `pip install apex-native[hub]`"
        ) from None
    with explained(f"'{address}' cannot be downloaded", DataError):
        return Path(
            hf_hub_download(match["repo"], match["path"], repo_type="dataset", revision=revision)
        )
