from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.storage.folder import FolderStorage
from shared.storage.objects import Storage
from shared.storage.s3 import S3Storage
from tests.fakes.s3_server import BUCKET, KEY, REGION, S3Server


@pytest.fixture(params=["folder", "s3"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    """An empty one of each kind."""
    opened: Storage
    if request.param == "folder":
        opened = FolderStorage(tmp_path / "files")
    else:
        opened = s3_storage(request.getfixturevalue("s3_server"))
    yield opened
    await opened.aclose()


def s3_storage(server: S3Server) -> S3Storage:
    prefix = f"test-{os.urandom(4).hex()}/"
    return S3Storage(endpoint=server.endpoint, bucket=BUCKET, region=REGION, key=KEY, prefix=prefix)
