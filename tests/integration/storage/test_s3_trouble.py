"""A store at the other end of a bad network: replies that are lost, and downloads that break off."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from shared.storage.objects import Storage
from shared.storage.s3 import PART_BYTES, S3Storage
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.s3_server import BUCKET, KEY, REGION, S3Server
from tests.integration.storage.test_objects import get, put


@pytest.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
async def storage(proxy: FaultProxy) -> AsyncIterator[Storage]:
    opened = S3Storage(endpoint=f"http://127.0.0.1:{proxy.port}", bucket=BUCKET, region=REGION, key=KEY)
    yield opened
    await opened.aclose()


async def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    storage: Storage, proxy: FaultProxy
) -> None:
    content = os.urandom(3 * PART_BYTES)
    key = await put(storage, content)
    read, cuts = bytearray(), 0

    async with aclosing(storage.read(key, offset=100, length=2 * PART_BYTES)) as chunks:
        async for chunk in chunks:
            read += chunk
            if len(read) > (cuts + 1) * PART_BYTES // 2 and cuts < 3:
                proxy.cut()
                cuts += 1

    assert cuts == 3
    assert read == content[100 : 100 + 2 * PART_BYTES]


@pytest.mark.parametrize(
    ("size", "asked"),
    [
        pytest.param(1_000, b"PUT ", id="of a small object"),
        pytest.param(2 * PART_BYTES + 5, b"?uploads=", id="of the beginning of an upload"),
        pytest.param(2 * PART_BYTES + 5, b"partNumber=2", id="of a part"),
        pytest.param(2 * PART_BYTES + 5, b"POST /files-of-tests/obj-", id="of the end of an upload"),
    ],
)
async def test_a_reply_that_is_lost_costs_nothing(
    storage: Storage, proxy: FaultProxy, size: int, asked: bytes
) -> None:
    content = os.urandom(size)
    is_end = asked.startswith(b"POST")
    proxy.lose_reply(lambda sent: asked in sent and not (is_end and b"?uploads=" in sent))

    key = await put(storage, content)

    assert proxy.has_lost_reply
    assert await get(storage, key) == content
