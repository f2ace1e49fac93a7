"""huggingface_hub, imported when it is needed, and its errors as one sentence each."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apex_native.errors import ApexError, HubError

__all__ = ["client", "explained", "first_line"]


def client() -> Any:
    """The module; HubError where the extra ``hub`` is not installed."""
    try:
        for name in ("constants", "utils"):
            importlib.import_module(f"huggingface_hub.{name}")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise HubError(
            f"an hf:// address needs huggingface_hub ({error}); "
            "`pip install 'apex-native[hub]'` brings it"
        ) from error


@contextmanager
def explained(what: str, raised: type[ApexError] = HubError) -> Iterator[None]:
    """Raise `raised` for every error of the client, with what was asked for and what to do.

    Every error: those of the connection are its HTTP library's own, which was requests, then
    httpx, then httpx2, and neither they nor HfHubHTTPError have a class in common but Exception.
    """
    try:
        yield
    except (ApexError, MemoryError):
        raise
    except Exception as error:
        raise raised(f"{what}: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds or status == 403:
        return (
            "it is gated; accept its terms on its page, then log in with `hf auth login` or set "
            "HF_TOKEN"
        )
    if "RevisionNotFoundError" in kinds:
        return "there is no such revision, or not any more; check what follows the @"
    if "LocalEntryNotFoundError" in kinds:  # an EntryNotFoundError too
        return "it is not in the cache; check the network, or unset HF_HUB_OFFLINE"
    if "EntryNotFoundError" in kinds:
        return "there is no such file in this revision; check its name"
    if "RepositoryNotFoundError" in kinds or status in (401, 404):
        return (
            "there is no such repository, or not for this account; check the name, or log in with "
            "`hf auth login` or HF_TOKEN"
        )
    if "HFValidationError" in kinds:
        return f"{first_line(error)}; write hf://owner/repo[@revision][/file]"
    if "OfflineModeIsEnabled" in kinds:
        return f"{first_line(error)}; unset HF_HUB_OFFLINE, or download it first"
    return f"{first_line(error)}; check the network, and try again"


def first_line(error: Exception) -> str:
    """What an error says first, without its full stop; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
