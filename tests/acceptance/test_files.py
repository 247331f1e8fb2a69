"""`/v1/files` of a broker that runs as real processes: large, broken off, wrong, and killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.people import client_with
from tests.fakes.eventually import eventually
from tests.fakes.s3_server import S3Server
from tests.fakes.stack import Stack
from tests.fixtures.stack import FreshStack

pytestmark = pytest.mark.xdist_group("files")

MEGABYTE: Final = 1024 * 1024
BOUNDARY: Final = "between-the-parts"
CONTENT_TYPE: Final = f"multipart/form-data; boundary={BOUNDARY}"
PURPOSE: Final = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
FILE_HEAD: Final = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
)
FILE: Final = f"{FILE_HEAD}content\r\n"
END: Final = f"--{BOUNDARY}--\r\n"


def field(name: str, value: str, *, more: str = "") -> str:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


def stored(stack: Stack) -> list[Path]:
    """Every file of the folder, finished or not."""
    return [path for path in (stack.folder / "data" / "files").rglob("*") if path.is_file()]


async def listed(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/v1/files")
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def a_form(size: int, block: bytes) -> AsyncIterator[bytes]:
    """A file of `size` bytes, made while it is sent."""
    yield (PURPOSE + FILE_HEAD).encode()
    for start in range(0, size, len(block)):
        yield block[: size - start]
    yield f"\r\n{END}".encode()


class Raw:
    """A connection of which the test says every byte."""

    def __init__(self, stack: Stack, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stack = stack
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, stack: Stack) -> Raw:
        return cls(stack, *await asyncio.open_connection("127.0.0.1", stack.apis[0].port))

    async def begin(self, *headers: str) -> None:
        lines = ("POST /v1/files HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self._stack.api_key}")
        await self.send("\r\n".join((*lines, *headers, "", "")).encode())

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def send_chunks(self, chunks: Iterable[bytes]) -> None:
        """Until all are sent, or the server has heard enough."""
        with contextlib.suppress(ConnectionError):
            for chunk in chunks:
                await self.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await self.send(b"0\r\n\r\n")

    async def status(self) -> int:
        line = await self._reader.readline()
        return int(line.split()[1])

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


WRONG: Final[dict[str, tuple[str, str | bytes, int]]] = {
    "JSON": ("application/json", "{}", 415),
    "a form of the other kind": ("application/x-www-form-urlencoded", "purpose=batch", 415),
    "no boundary": ("multipart/form-data", PURPOSE + FILE + END, 400),
    "an empty boundary": ("multipart/form-data; boundary=", PURPOSE + FILE + END, 400),
    "a boundary too long": (f"multipart/form-data; boundary={'b' * 71}", PURPOSE + FILE + END, 400),
    "another boundary": ("multipart/form-data; boundary=other", PURPOSE + FILE + END, 400),
    "nothing": (CONTENT_TYPE, "", 400),
    "no part": (CONTENT_TYPE, END, 400),
    "no form": (CONTENT_TYPE, "hello", 400),
    "no end": (CONTENT_TYPE, PURPOSE + FILE, 400),
    "an end in the middle of the file": (CONTENT_TYPE, PURPOSE + FILE_HEAD + "cont", 400),
    "an end in the middle of a header": (CONTENT_TYPE, PURPOSE + FILE_HEAD[:60], 400),
    "no file": (CONTENT_TYPE, PURPOSE + END, 400),
    "an empty file": (CONTENT_TYPE, PURPOSE + FILE_HEAD + "\r\n" + END, 400),
    "two files": (CONTENT_TYPE, PURPOSE + FILE + FILE + END, 400),
    "a file that is a field": (CONTENT_TYPE, PURPOSE + field("file", "content") + END, 400),
    "no purpose": (CONTENT_TYPE, FILE + END, 400),
    "an unknown purpose": (CONTENT_TYPE, field("purpose", "fun") + FILE + END, 400),
    "an unknown purpose behind the file": (CONTENT_TYPE, FILE + field("purpose", "fun") + END, 400),
    "output, as if it were ours": (CONTENT_TYPE, field("purpose", "batch_output") + FILE + END, 400),
    "a purpose twice": (CONTENT_TYPE, PURPOSE + PURPOSE + FILE + END, 400),
    "a purpose that is a file": (
        CONTENT_TYPE,
        field("purpose", "batch", more='; filename="p"') + FILE + END,
        400,
    ),
    "a long purpose": (CONTENT_TYPE, field("purpose", "b" * 10_000) + FILE + END, 400),
    "a purpose not in UTF-8": (
        CONTENT_TYPE,
        field("purpose", "\xff").encode("latin-1") + (FILE + END).encode(),
        400,
    ),
    "an unknown field": (CONTENT_TYPE, PURPOSE + field("colour", "red") + FILE + END, 400),
    "many parts": (CONTENT_TYPE, PURPOSE * 10_000 + FILE + END, 400),
    "a part without a name": (
        CONTENT_TYPE,
        f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + PURPOSE + FILE + END,
        400,
    ),
    "a part without headers": (CONTENT_TYPE, f"--{BOUNDARY}\r\n\r\nx\r\n" + PURPOSE + FILE + END, 400),
    "a huge header of a part": (
        CONTENT_TYPE,
        PURPOSE + FILE_HEAD.replace("octet-stream", "x" * 100_000) + "content\r\n" + END,
        400,
    ),
    "many headers of a part": (
        CONTENT_TYPE,
        PURPOSE + FILE_HEAD.replace("Content-Type", "X-A: b\r\n" * 100 + "Content-Type") + "c\r\n" + END,
        400,
    ),
    "a header of a part twice": (
        CONTENT_TYPE,
        PURPOSE + FILE_HEAD.replace("Content-Type", "Content-Type: a/b\r\nContent-Type") + "c\r\n" + END,
        400,
    ),
    "a part in base64": (
        CONTENT_TYPE,
        PURPOSE
        + FILE_HEAD.replace("Content-Type", "Content-Transfer-Encoding: base64\r\nContent-Type")
        + "Yw==\r\n"
        + END,
        400,
    ),
    **{
        f"the filename {name!r}": (
            CONTENT_TYPE,
            (PURPOSE + FILE_HEAD.replace("big.bin", name) + "content\r\n" + END).encode("latin-1"),
            400,
        )
        for name in (
            *("", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "..\\..\\x"),
            *("a\x00b", "a\x1bb", "a\x7fb", "x" * 300, "\xff"),
        )
    },
    **{
        f"expiry {anchor!r} {seconds!r}": (
            CONTENT_TYPE,
            PURPOSE
            + ("" if anchor is None else field("expires_after[anchor]", anchor))
            + ("" if seconds is None else field("expires_after[seconds]", seconds))
            + FILE
            + END,
            400,
        )
        for anchor, seconds in (
            ("created_at", None),
            (None, "3600"),
            ("now", "3600"),
            *(("created_at", seconds) for seconds in ("", "3599", "2592001", "-1", "1e4", "٣٦٠٠", "9" * 200)),
        )
    },
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_upload_is_refused_and_leaves_nothing(stack: Stack, what: str) -> None:
    content_type, body, status = WRONG[what]
    async with stack.client() as client:
        before = await listed(client)
        answer = await client.post(
            "/v1/files",
            content=body.encode() if isinstance(body, str) else body,
            headers={"content-type": content_type},
        )

        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert await listed(client) == before
    assert len(stored(stack)) == len(before)


async def test_fields_may_come_in_any_order_and_text_before_and_after_is_skipped(stack: Stack) -> None:
    expiry = field("expires_after[anchor]", "created_at") + field("expires_after[seconds]", "3600")
    for form in (PURPOSE + FILE + expiry, FILE + expiry + PURPOSE, expiry + PURPOSE + FILE):
        async with stack.client() as client:
            answer = await client.post(
                "/v1/files",
                content=f"\r\n{form}{END}and more".encode(),
                headers={"content-type": CONTENT_TYPE},
            )
            assert answer.status_code == 200, answer.text
            file = answer.json()
            assert file["expires_at"] == file["created_at"] + 3600
            content = await client.get(f"/v1/files/{file['id']}/content")
            assert content.content == b"content"
            assert (await client.delete(f"/v1/files/{file['id']}")).json()["deleted"] is True
    assert stored(stack) == []


async def test_content_is_told_byte_for_byte_and_shown_by_no_browser(stack: Stack) -> None:
    content = b"<script>alert(1)</script>\r\n--" + os.urandom(600_000)
    async with stack.client() as client:
        file = (
            await client.post(
                "/v1/files",
                files={"file": ('a "quoted" näme.html', content, "text/html")},
                data={"purpose": "user_data"},
            )
        ).json()
        url = f"/v1/files/{file['id']}/content"

        whole = await client.get(url)
        parts = {
            asked: await client.get(url, headers={"range": asked})
            for asked in ("bytes=0-9", "bytes=500000-", "bytes=-7", "bytes=5-999999999", "bytes=0-1,3-4", "x")
        }
        beyond = await client.get(url, headers={"range": f"bytes={len(content)}-"})
        await client.delete(f"/v1/files/{file['id']}")

    assert whole.content == content
    assert whole.headers["content-length"] == str(len(content))
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"].startswith('attachment; filename="a ')
    assert parts["bytes=0-9"].status_code == 206
    assert parts["bytes=0-9"].content == content[:10]
    assert parts["bytes=0-9"].headers["content-range"] == f"bytes 0-9/{len(content)}"
    assert parts["bytes=500000-"].content == content[500_000:]
    assert parts["bytes=-7"].content == content[-7:]
    assert parts["bytes=5-999999999"].content == content[5:]
    assert {parts[asked].status_code for asked in ("bytes=0-1,3-4", "x")} == {200}
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"


async def test_lists_are_asked_for_in_the_right_way_or_refused(stack: Stack) -> None:
    async with stack.client() as client:
        for query in ("limit=0", "limit=10001", "limit=x", "order=up", "after=file-nobody", "after=%00"):
            answer = await client.get(f"/v1/files?{query}")
            assert answer.status_code in {400, 422}, query
        assert (await client.get("/v1/files?purpose=nothing-has-it")).json() == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }


async def test_a_viewer_neither_uploads_nor_reads(stack: Stack) -> None:
    token = await stack.new_api_key(AccountId("acc_stack"), role=Role.VIEWER)
    async with client_with(stack, token) as viewer:
        for ask in (viewer.get("/v1/files"), viewer.post("/v1/files", files={"file": ("a", b"a")})):
            assert (await ask).status_code == 403


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["folder", "s3"])
async def test_200_megabytes_pass_through_in_flat_memory(
    fresh_stack: FreshStack, request: pytest.FixtureRequest, kind: str
) -> None:
    """In and out, of an unknown length on the way in; the api grows by less than 48 MB."""
    settings = {} if kind == "folder" else request.getfixturevalue("s3_server").settings()
    stack = await fresh_stack(workers=0, settings=settings)
    api = psutil.Process(stack.apis[0].pid)
    block, size, highest = os.urandom(MEGABYTE), 200 * MEGABYTE, 0

    async def watched(form: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal highest
        async for chunk in form:
            highest = max(highest, api.memory_info().rss)
            yield chunk

    async with stack.client(timeout=200) as client:
        warm = await client.post(
            "/v1/files", content=a_form(9 * MEGABYTE, block), headers={"content-type": CONTENT_TYPE}
        )
        assert warm.status_code == 200, warm.text
        before = api.memory_info().rss
        answer = await client.post(
            "/v1/files", content=watched(a_form(size, block)), headers={"content-type": CONTENT_TYPE}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] == size
        read = 0
        async with client.stream("GET", f"/v1/files/{answer.json()['id']}/content") as content:
            async for chunk in watched(content.aiter_raw()):
                read += len(chunk)
        for file in await listed(client):
            assert (await client.delete(f"/v1/files/{file['id']}")).status_code == 200

    print(f"{kind}: +{(highest - before) / MEGABYTE:.1f} MB")
    assert read == size
    assert highest - before < 48 * MEGABYTE


async def test_an_api_killed_in_the_middle_of_an_upload_leaves_no_file(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0)
    raw = await Raw.to(stack)
    await raw.begin(f"Content-Type: {CONTENT_TYPE}", f"Content-Length: {100 * MEGABYTE}")
    await raw.send((PURPOSE + FILE_HEAD).encode() + os.urandom(3 * MEGABYTE))
    await eventually(
        lambda: sum(path.stat().st_size for path in stored(stack)) > MEGABYTE, "some of it stored"
    )

    await stack.kill9(stack.apis[0])
    await raw.close()
    await stack.start_api()

    async with stack.client() as client:
        assert await listed(client) == []
    (left,) = stored(stack)
    # Where the scheduler finds it once it is a day old.
    assert left.parent.name == "unfinished"


@pytest.mark.parametrize("sent", [0, 100_000, 20 * MEGABYTE])
async def test_a_caller_that_leaves_in_the_middle_leaves_nothing(stack: Stack, sent: int) -> None:
    raw = await Raw.to(stack)
    await raw.begin(f"Content-Type: {CONTENT_TYPE}", f"Content-Length: {100 * MEGABYTE}")
    await raw.send((PURPOSE + FILE_HEAD).encode() + os.urandom(sent))
    await eventually(lambda: len(stored(stack)) == 1, "an upload that began")

    await raw.close()

    await eventually(lambda: stored(stack) == [], "nothing left")
    async with stack.client() as client:
        assert await listed(client) == []


async def test_a_caller_that_leaves_while_it_is_told_the_content_stops_the_reading(stack: Stack) -> None:
    async with stack.client() as client:
        answer = await client.post(
            "/v1/files", files={"file": ("a", os.urandom(20 * MEGABYTE))}, data={"purpose": "user_data"}
        )
        url = f"/v1/files/{answer.json()['id']}"
        async with client.stream("GET", f"{url}/content") as content:
            await anext(content.aiter_raw())
        api = psutil.Process(stack.apis[0].pid)

        await eventually(lambda: not any("obj-" in file.path for file in api.open_files()), "the file closed")
        await client.delete(url)


SMALL: Final = {
    "HEADRACE_STORAGE__MAX_FILE_BYTES": str(4 * MEGABYTE),
    "HEADRACE_STORAGE__MAX_BATCH_INPUT_BYTES": str(2 * MEGABYTE),
    "HEADRACE_STORAGE__ACCOUNT_MAX_BYTES": str(6 * MEGABYTE),
    "HEADRACE_STORAGE__ACCOUNT_MAX_FILES": "3",
    "HEADRACE_API__MAX_BODY_BYTES": "100000",
}


async def test_what_is_too_large_is_refused_before_it_is_read_where_that_is_known(
    fresh_stack: FreshStack,
) -> None:
    stack = await fresh_stack(workers=0, settings=SMALL)
    raw = await Raw.to(stack)
    await raw.begin(f"Content-Type: {CONTENT_TYPE}", f"Content-Length: {5 * MEGABYTE}")
    assert await raw.status() == 413
    await raw.close()

    batch = PURPOSE.replace("user_data", "batch")
    for before, behind, size in ((PURPOSE, "", 5), (batch, "", 3), ("", batch, 3)):
        raw = await Raw.to(stack)
        await raw.begin(f"Content-Type: {CONTENT_TYPE}", "Transfer-Encoding: chunked")
        pieces = [os.urandom(65_536)] * (size * 16)
        form = [(before + FILE_HEAD).encode(), *pieces, f"\r\n{behind}{END}".encode()]
        # Heard while it still sends: what has come in goes when the connection is reset.
        status, _ = await asyncio.gather(raw.status(), raw.send_chunks(form))
        assert status == 413
        await raw.close()
    await eventually(lambda: stored(stack) == [], "nothing left")


async def test_an_account_has_no_more_files_than_it_may(fresh_stack: FreshStack) -> None:
    stack = await fresh_stack(workers=0, settings=SMALL)
    other = await stack.new_api_key(AccountId("acc_other"))

    async def upload(client: httpx.AsyncClient, size: int) -> httpx.Response:
        file = {"file": ("a.bin", os.urandom(size))}
        return await client.post("/v1/files", files=file, data={"purpose": "user_data"})

    async with stack.client() as client, client_with(stack, other) as stranger:
        form = f"{PURPOSE}{FILE_HEAD}{'x' * (4 * MEGABYTE - 1)}\r\n{END}".encode()
        length = f"Content-Length: {len(form)}"
        first, second = await Raw.to(stack), await Raw.to(stack)
        await first.begin(f"Content-Type: {CONTENT_TYPE}", length)
        await first.send(form[:100_000])
        await eventually(lambda: len(stored(stack)) == 1, "an upload that began")
        await second.begin(f"Content-Type: {CONTENT_TYPE}", length)
        assert await second.status() == 413
        await first.send(form[100_000:])
        assert await first.status() == 200
        for _ in range(2):
            assert (await upload(client, 10)).status_code == 200
        refused = await upload(client, 10)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "storage_quota_exceeded"
        assert (await upload(stranger, 4 * MEGABYTE)).status_code == 200
        mine = await listed(client)
        assert len(mine) == 3
        assert (await client.delete(f"/v1/files/{mine[0]['id']}")).status_code == 200
        assert (await upload(client, 10)).status_code == 200
        for raw in (first, second):
            await raw.close()
    assert len(stored(stack)) == 4


async def test_files_in_a_store_are_seen_by_every_api(fresh_stack: FreshStack, s3_server: S3Server) -> None:
    stack = await fresh_stack(apis=2, workers=0, settings=s3_server.settings())
    content = os.urandom(20 * MEGABYTE)
    one, other = (stack.client(api) for api in stack.apis)
    async with one, other:
        answer = await one.post("/v1/files", files={"file": ("a", content)}, data={"purpose": "user_data"})
        assert answer.status_code == 200, answer.text
        url = f"/v1/files/{answer.json()['id']}"

        assert (await other.get(f"{url}/content")).content == content
        part = await other.get(f"{url}/content", headers={"range": "bytes=9000000-9000009"})
        assert part.content == content[9_000_000:9_000_010]
        assert (await other.delete(url)).status_code == 200
        assert (await one.get(f"{url}/content")).status_code == 404


async def test_a_store_that_is_away_answers_503_and_takes_nothing_else_with_it(
    fresh_stack: FreshStack, s3_server: S3Server
) -> None:
    settings = {**s3_server.settings(), "HEADRACE_STORAGE__S3_ENDPOINT": "http://127.0.0.1:9"}
    stack = await fresh_stack(settings=settings)
    async with stack.client() as client:
        answer = await client.post(
            "/v1/files", files={"file": ("a", b"content")}, data={"purpose": "user_data"}
        )
        chat = await client.post(
            "/v1/chat/completions",
            json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
        )

        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "storage_unavailable"
        assert chat.status_code == 200
        assert await listed(client) == []
