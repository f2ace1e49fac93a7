"""Sends a repository to the Hub; what was sent before is not sent again."""

from __future__ import annotations

import re

from apex_native.errors import DataError, OutputError
from apex_native.hub.client import first_line
from apex_native.publish.build import Repository
from apex_native.publish.sums import sha256_of

__all__ = ["upload_repository"]

_PATTERN = re.compile(r"([*?\[])")


def upload_repository(
    repository: Repository,
    *,
    private: bool = False,
    create_pr: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload exactly the files of a built repository; gives the commit's address.

    By ``upload_folder`` of huggingface_hub 1 or 2, which sends in parts and goes on after an
    interruption when it is called again. private: where the repository does not exist yet. endpoint
    and token are that library's, with its own defaults. Raises DataError where a file is not what
    was verified any more, OutputError where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    for name, expected in repository.sums.items():
        if (repository.folder / name).stat().st_size and _changed(repository, name, expected):
            raise DataError(f"{name} has changed since it was verified; publish again")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository.repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository.repo,
            folder_path=repository.folder,
            allow_patterns=[_PATTERN.sub(r"[\1]", name) for name in repository.files],
            commit_message="Upload by apex-native publish",
            create_pr=create_pr,
        )
    except Exception as error:  # the connection's are its HTTP library's, which changes
        raise OutputError(
            f"{repository.repo}: the Hub did not take it ({first_line(error)}); check the network, "
            "publish again to go on; `hf auth login` gives you a token"
        ) from error
    return str(commit.commit_url)


def _changed(repository: Repository, name: str, expected: str) -> bool:
    """Small files by their sum; of large ones, whose sum was taken a moment ago, the time."""
    path = repository.folder / name
    sums = repository.folder / "SHA256SUMS"
    if path.stat().st_mtime_ns <= sums.stat().st_mtime_ns:
        return False
    return sha256_of(path) != expected
