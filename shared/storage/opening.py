"""The storage that the settings name."""

from __future__ import annotations

from shared.settings import Settings
from shared.sigv4 import AccessKey
from shared.storage.folder import FolderStorage
from shared.storage.objects import Storage
from shared.storage.s3 import S3Storage


def open_storage(settings: Settings) -> Storage:
    """Reaches for nothing yet. Close it when done."""
    storage = settings.storage
    if storage.kind == "folder":
        return FolderStorage((storage.folder or settings.data_dir / "files").absolute())
    # There are no settings without one of these: mypy alone has to be told.
    named = (storage.s3_endpoint, storage.s3_bucket, storage.s3_access_key_id)
    endpoint, bucket, key_id = (str(value) for value in named)
    secret = storage.s3_secret_access_key
    return S3Storage(
        endpoint=endpoint,
        bucket=bucket,
        region=storage.s3_region,
        key=AccessKey(key_id, "" if secret is None else secret.get_secret_value()),
        prefix=storage.s3_prefix,
    )
