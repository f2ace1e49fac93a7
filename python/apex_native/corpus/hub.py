"""Files of a dataset on the Hugging Face hub, through its own client (the extra ``corpus``).

The client keeps what it downloads in its own cache (``HF_HOME``), takes its token from where the
user put it, and with ``HF_HUB_OFFLINE=1`` works from the cache alone.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from apex_native.corpus.files import InputFile
from apex_native.corpus.source_specs import HubSpec
from apex_native.errors import CorpusError
from apex_native.hub.client import explained

__all__ = ["fetch_dataset"]


def fetch_dataset(spec: HubSpec) -> list[InputFile]:
    """The dataset's files that match `spec.files`, downloaded unless they are cached.

    Raises CorpusError where the client is missing, the dataset or its revision cannot be had, or
    nothing matches.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CorpusError(
            f"{spec.label}: the hub needs huggingface_hub; "
            "install it with `pip install 'apex-native[hub]'`"
        ) from error
    with explained(f"dataset {spec.repo} at {spec.revision} cannot be had", CorpusError):
        folder = Path(
            snapshot_download(
                spec.repo,
                repo_type="dataset",
                revision=spec.revision,
                allow_patterns=list(spec.files),
            )
        )
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in spec.files)]
    if not wanted:
        raise CorpusError(
            f"dataset {spec.repo} at {spec.revision} has no file that matches "
            f"{', '.join(spec.files)}; check 'files'"
        )
    return [InputFile(f"{spec.repo}@{spec.revision}/{name}", folder / name) for name in wanted]
