"""The data folder, its disk, and the store of files."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Final

from loguru import logger

from cli.doctor.findings import Finding, fail, ok, skip, warn
from cli.doctor.patient import Patient
from shared.storage.objects import NoSuchObject, StorageUnavailable, new_key
from shared.storage.opening import open_storage

_LEAST_BYTES: Final = 256 * 1024 * 1024
_FEW_BYTES: Final = 2 * 1024 * 1024 * 1024
_TEXT: Final = b"written by headrace doctor, and deleted again"


async def folder(patient: Patient) -> Finding:
    path = patient.settings.data_dir.absolute()
    place = _existing(path)
    if not os.access(place, os.W_OK | os.X_OK):
        return fail(
            f"The data folder {path} cannot be written.",
            fix=f"chown -R USER {path} && chmod 700 {path} for the user of the processes, or another folder: "
            "HEADRACE_DATA_DIR.",
        )
    if place != path:
        return ok(f"{path} is not there yet and can be made.")
    if path.stat().st_mode & 0o007 and (path / "key-pepper").exists():
        return warn(f"Others may look into {path}, which holds secrets.", fix=f"chmod 700 {path}")
    return ok(f"{path} can be written.")


async def disk(patient: Patient) -> Finding:
    found = shutil.disk_usage(_existing(patient.settings.data_dir.absolute()))
    free = f"{found.free / 2**30:.1f} GiB of the data folder's disk are free"
    fix = "Make room, or move the folder to a larger disk: HEADRACE_DATA_DIR."
    if found.free < _LEAST_BYTES:
        return fail(f"Only {free}.", fix=fix)
    if found.free < _FEW_BYTES:
        return warn(f"Only {free}.", fix=fix)
    return ok(f"{free}.")


async def store(patient: Patient) -> Finding:
    """Written, read and deleted again."""
    settings = patient.settings
    is_folder = settings.storage.kind == "folder"
    if is_folder and settings.storage.folder is None:
        if not os.access(_existing(settings.data_dir.absolute()), os.W_OK | os.X_OK):
            return skip("Files are kept in the data folder, which has to be mended first.")
        if not settings.data_dir.exists():
            return skip("Files will be kept in the data folder, which is not there yet.")
    storage = open_storage(settings)
    key = new_key()
    # What it logs is told by the finding.
    logger.disable("shared.storage")
    try:
        async with storage.open_writer(key) as writer:
            await writer.write(_TEXT)
        async with aclosing(storage.read(key)) as chunks:
            read = b"".join([chunk async for chunk in chunks])
        await storage.delete(key)
    except (StorageUnavailable, NoSuchObject):
        if is_folder:
            place = settings.storage.folder or settings.data_dir / "files"
            return fail(
                f"The folder of the files, {place.absolute()}, cannot be used.",
                fix=f"chown -R USER {place.absolute()}, or another folder: HEADRACE_STORAGE__FOLDER.",
            )
        return fail(
            f"The bucket {settings.storage.s3_bucket} at {settings.storage.s3_endpoint} does not take files.",
            fix="Look at HEADRACE_STORAGE__S3_ENDPOINT, __S3_BUCKET, __S3_REGION and both access keys: "
            "they have to get, put, delete and list below __S3_PREFIX.",
        )
    finally:
        logger.enable("shared.storage")
        await asyncio.shield(storage.aclose())
    if read != _TEXT:
        return fail("The store of the files gives back something else.", fix="Replace it: it loses files.")
    return ok("A file was written, read and deleted.")


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())
