"""Objects in an S3-compatible store: AWS, MinIO, Ceph, R2, SeaweedFS and others, in path style.

    up to 8 MiB   one PUT
    more          a multipart upload, a part in memory at a time; aborted when anything goes wrong

Calls are signed (shared.sigv4) and sent again when the store does not answer; a download that
breaks off goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from random import Random
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree

import httpx
from loguru import logger

from shared.clock import Clock, SystemClock
from shared.sigv4 import AccessKey, sha256, signed_headers
from shared.storage.objects import CHUNK_BYTES, KEY, NoSuchObject, StorageUnavailable, Writer

PART_BYTES: Final = 8 * 1024 * 1024
_TRIES: Final = 3
_RETRY_SECONDS: Final = 0.2
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_NO_BODY: Final = sha256(b"")


class S3Storage:
    """`prefix`: before every key, so that the bucket may hold other things."""

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        region: str,
        key: AccessKey,
        prefix: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._bucket_url = f"{endpoint.rstrip('/')}/{quote(bucket, safe='')}"
        self._region = region
        self._access_key = key
        self._prefix = prefix
        self._clock = clock or SystemClock()
        self._rng = Random()  # noqa: S311 - spreads retries, no secret
        # No bound on connections: under httpx a cancelled call may keep its place in the pool for ever.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)

    @asynccontextmanager
    async def open_writer(self, key: str) -> AsyncIterator[Writer]:
        upload = _Upload(self, self._path(key))
        try:
            yield upload
            await upload.finish()
        except BaseException:
            await _to_its_end(upload.abandon())
            raise

    async def read(self, key: str, *, offset: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        path, at = self._path(key), offset
        end = None if length is None else offset + length
        failures = 0
        while end is None or at < end:
            try:
                async with aclosing(self._read_once(path, at, end)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                        at += len(chunk)
                        failures = 0
            except httpx.TransportError as exc:
                failures += 1
                if failures == _TRIES:
                    raise _unavailable("GET", type(exc).__name__) from exc
                await self._pause(failures)
            else:
                return

    async def size(self, key: str) -> int:
        answer = await self.call("HEAD", self._path(key))
        return int(answer.headers["content-length"])

    async def delete(self, key: str) -> None:
        # Most stores answer 204 to a second one, some 404.
        with contextlib.suppress(NoSuchObject):
            await self.call("DELETE", self._path(key))

    async def keys_before(self, moment: datetime) -> AsyncGenerator[str]:
        query = {"list-type": "2", "prefix": self._prefix}
        while True:
            page = _parsed(await self.call("GET", "", query))
            for entry in page.findall(_any("Contents")):
                key = _text(entry, "Key").removeprefix(self._prefix)
                if KEY.match(key) and datetime.fromisoformat(_text(entry, "LastModified")) < moment:
                    yield key
            if _text(page, "IsTruncated") != "true":
                return
            query["continuation-token"] = _text(page, "NextContinuationToken")

    async def remove_unfinished(self, before: datetime) -> int:
        query, removed = {"uploads": "", "prefix": self._prefix}, 0
        while True:
            page = _parsed(await self.call("GET", "", query))
            for entry in page.findall(_any("Upload")):
                path = _text(entry, "Key")
                key = path.removeprefix(self._prefix)
                if KEY.match(key) and datetime.fromisoformat(_text(entry, "Initiated")) < before:
                    with contextlib.suppress(NoSuchObject):  # finished this moment
                        await self.call("DELETE", path, {"uploadId": _text(entry, "UploadId")})
                        removed += 1
            if _text(page, "IsTruncated") != "true":
                return removed
            query["key-marker"] = _text(page, "NextKeyMarker")
            query["upload-id-marker"] = _text(page, "NextUploadIdMarker")

    async def aclose(self) -> None:
        await self._client.aclose()

    # within

    async def call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes | bytearray = b""
    ) -> httpx.Response:
        """`path`: within the bucket. Raises NoSuchObject, StorageUnavailable."""
        digest = await asyncio.to_thread(sha256, body) if body else _NO_BODY
        for left in reversed(range(_TRIES)):
            try:
                answer = await self._client.send(self._request(method, path, query, digest, body))
            except httpx.TransportError as exc:
                if not left:
                    raise _unavailable(method, type(exc).__name__) from exc
            else:
                if answer.is_success:
                    return answer
                if answer.status_code not in _AGAIN or not left:
                    raise _refusal(method, answer.status_code, answer.content)
            await self._pause(_TRIES - left)
        raise AssertionError("unreachable")

    async def _read_once(self, path: str, start: int, end: int | None) -> AsyncGenerator[bytes]:
        """Raises httpx.TransportError when it breaks off, and for what may be better in a moment."""
        headers = {"accept-encoding": "identity"}
        if start or end is not None:
            headers["range"] = f"bytes={start}-{'' if end is None else end - 1}"
        request = self._request("GET", path, None, _NO_BODY, headers=headers)
        answer = await self._client.send(request, stream=True)
        try:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            if answer.status_code in _AGAIN:
                raise httpx.ReadError(f"status {answer.status_code}")
            whole_of_it = "range" not in headers
            if answer.status_code != (200 if whole_of_it else 206):
                raise _refusal("GET", answer.status_code, await answer.aread())
            async for chunk in answer.aiter_raw(CHUNK_BYTES):
                yield chunk
        finally:
            await answer.aclose()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        digest: str,
        body: bytes | bytearray = b"",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in (query or {}).items())
        url = f"{self._bucket_url}/{quote(path, safe='/')}{'?' if asked else ''}{asked}"
        signed = signed_headers(
            self._access_key,
            region=self._region,
            service="s3",
            method=method,
            url=url,
            body_sha256=digest,
            now=self._clock.now(),
        )
        if method in {"PUT", "POST"}:
            signed["content-length"] = str(len(body))
        return self._client.build_request(
            method, url, content=_pieces(body) if body else None, headers={**signed, **(headers or {})}
        )

    async def _pause(self, failures: int) -> None:
        await asyncio.sleep(self._rng.uniform(0, _RETRY_SECONDS * 4**failures))

    def _path(self, key: str) -> str:
        if not KEY.match(key):
            raise ValueError("not a key of the storage")
        return self._prefix + key


class _Upload:
    """One object on its way: a single PUT, or parts once there is more than fits in one."""

    def __init__(self, store: S3Storage, path: str) -> None:
        self._store = store
        self._path = path
        self._pending = bytearray()
        self._size = 0
        self._id: str | None = None
        self._etags: list[str] = []
        self._put = False

    async def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        # Some stores want all parts but the last to be of one size.
        while len(self._pending) + len(chunk) >= PART_BYTES:
            taken = PART_BYTES - len(self._pending)
            self._pending += chunk[:taken]
            chunk = chunk[taken:]
            part, self._pending = self._pending, bytearray()
            await self._send_part(part)
        self._pending += chunk

    async def finish(self) -> None:
        last = self._pending
        if self._id is None:
            self._put = True
            await self._store.call("PUT", self._path, body=last)
            return
        if last:
            await self._send_part(last)
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(self._etags, start=1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        try:
            answer = await self._store.call("POST", self._path, {"uploadId": self._id}, body)
        except NoSuchObject:
            # A first try whose answer was lost may have done it.
            if not await self._is_there():
                raise StorageUnavailable from None
            return
        # The status is sent before the parts are put together: an error may follow it.
        if b"<Error>" in answer.content and not await self._is_there():
            raise _refusal("POST", answer.status_code, answer.content)

    async def abandon(self) -> None:
        """Whatever had been done by then. What fails here is for `remove_unfinished`."""
        try:
            if self._id is not None:
                with contextlib.suppress(NoSuchObject):
                    await self._store.call("DELETE", self._path, {"uploadId": self._id})
            if self._id is not None or self._put:
                with contextlib.suppress(NoSuchObject):
                    await self._store.call("DELETE", self._path)
        except StorageUnavailable:
            logger.warning("upload to the store not aborted")

    async def _send_part(self, part: bytearray) -> None:
        if self._id is None:
            begun = await self._store.call("POST", self._path, {"uploads": ""})
            self._id = _text(_parsed(begun), "UploadId")
        query = {"partNumber": str(len(self._etags) + 1), "uploadId": self._id}
        try:
            answer = await self._store.call("PUT", self._path, query, part)
        except NoSuchObject:  # somebody aborted it
            raise StorageUnavailable from None
        self._etags.append(answer.headers["etag"])

    async def _is_there(self) -> bool:
        try:
            answer = await self._store.call("HEAD", self._path)
        except NoSuchObject:
            return False
        return int(answer.headers["content-length"]) == self._size


async def _pieces(body: bytes | bytearray) -> AsyncIterator[bytes]:
    """What is written at once is copied several times on its way."""
    for start in range(0, len(body), CHUNK_BYTES):
        yield bytes(memoryview(body)[start : start + CHUNK_BYTES])


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Whoever is cancelled meanwhile: an upload that is not aborted costs money until it is swept."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)


def _refusal(method: str, status: int, body: bytes) -> NoSuchObject | StorageUnavailable:
    if status == httpx.codes.NOT_FOUND and b"<Code>NoSuchBucket</Code>" not in body:
        return NoSuchObject()
    code = body.partition(b"<Code>")[2].partition(b"</Code>")[0][:64].decode("ascii", "replace")
    return _unavailable(method, f"{status} {code}".strip())


def _unavailable(method: str, reason: str) -> StorageUnavailable:
    logger.error("storage store fails", method=method, error=reason)
    return StorageUnavailable()


def _parsed(answer: httpx.Response) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(answer.content)  # noqa: S314 - the operator's own store wrote it
    except ElementTree.ParseError as exc:
        raise _unavailable("GET", "no XML") from exc


def _any(name: str) -> str:
    """Some stores leave the namespace out."""
    return f"{{*}}{name}"


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(_any(name)) or ""
