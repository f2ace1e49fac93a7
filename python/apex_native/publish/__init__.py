"""From a folder of quantized files to a repository that people can use.

`build_repository` writes what goes beside the files; `upload_repository` sends what was verified.
"""

from __future__ import annotations

from apex_native.publish.build import Repository, build_repository
from apex_native.publish.files import ModelFiles, PublishedFolder, scan_folder
from apex_native.publish.upload import upload_repository

__all__ = [
    "ModelFiles",
    "PublishedFolder",
    "Repository",
    "build_repository",
    "scan_folder",
    "upload_repository",
]
