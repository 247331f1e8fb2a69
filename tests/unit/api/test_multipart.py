"""Forms are read the same way however they are cut, and what is no form is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from api.multipart import MAX_PARTS, PartBegins, PartData, boundary_of, read_parts
from api.openai_v1.file_content import RangeNotSatisfiable, range_of
from shared.errors import BadRequest, PayloadTooLarge, UnsupportedContent

BOUNDARY = b"cut-here"


def received(chunks: Sequence[bytes], *, leaves: bool = False) -> Receive:
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": leaves or at < len(chunks) - 1}
        for at, chunk in enumerate(chunks)
    ]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    return receive


async def form_of(receive: Receive, *, limit: int = 1_000_000) -> list[tuple[str, str | None, bytes]]:
    """Name, filename and content of each part."""
    parts: list[tuple[str, str | None, bytes]] = []
    async for event in read_parts(receive, BOUNDARY, limit=limit):
        if isinstance(event, PartBegins):
            parts.append((event.name, event.filename, b""))
        elif isinstance(event, PartData):
            name, filename, content = parts[-1]
            parts[-1] = (name, filename, content + event.data)
    return parts


def written(parts: Sequence[tuple[str, str | None, bytes]]) -> bytes:
    body = b""
    for name, filename, content in parts:
        told = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        body += b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (BOUNDARY, told.encode(), content)
    return body + b"--%b--\r\n" % BOUNDARY


contents = st.one_of(
    st.binary(max_size=200),
    # Nearly the boundary.
    st.lists(st.sampled_from([b"\r", b"\n", b"--", b"cut-", b"her", b"\r\n--cut-her"]), max_size=20).map(
        b"".join
    ),
)


@given(
    contents=st.lists(contents, min_size=1, max_size=4),
    cuts=st.lists(st.integers(min_value=0, max_value=2_000), max_size=12),
)
async def test_a_form_is_the_same_wherever_it_is_cut(contents: list[bytes], cuts: list[int]) -> None:
    parts = [(f"field{at}", None if at % 2 else "näme", content) for at, content in enumerate(contents)]
    body = written(parts)
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    chunks = [body[start:end] for start, end in pairwise(places)]

    assert await form_of(received(chunks)) == parts


@given(st.binary(max_size=300))
async def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        await form_of(received([body]))


@given(st.data())
async def test_a_form_that_is_cut_off_is_refused(data: st.DataObject) -> None:
    whole = written([("file", "a.bin", b"content"), ("purpose", None, b"batch")])
    # The line end behind the last boundary may be missing.
    end = data.draw(st.integers(min_value=0, max_value=len(whole) - 3))

    with pytest.raises(BadRequest):
        await form_of(received([whole[:end]]))


async def test_a_form_that_is_too_large_or_has_too_many_parts_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        await form_of(received([written([("file", "a", b"x" * 1_000)])]), limit=1_000)
    with pytest.raises(BadRequest):
        await form_of(received([written([("a", None, b"")] * (MAX_PARTS + 1))]))


async def test_a_caller_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        await form_of(received([written([("file", "a", b"x")])[:50]], leaves=True))


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/mixed; boundary=a", "text/multipart/form-data"]
)
def test_another_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedContent):
        boundary_of(content_type)


@pytest.mark.parametrize(
    "boundary", ["", ";boundary=", ';boundary=""', ";boundary=a\x00b", f";boundary={'b' * 71}"]
)
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(BadRequest):
        boundary_of(f"multipart/form-data{boundary}")


@pytest.mark.parametrize("boundary", ["a", "----WebKitFormBoundaryABC", '"a b:c"', "b" * 70])
def test_a_boundary_is_found(boundary: str) -> None:
    assert boundary_of(f"multipart/form-data; boundary={boundary}") == boundary.strip('"').encode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", range(100)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=90-200", range(90, 100)),
        ("bytes=-5", range(95, 100)),
        ("bytes=-500", range(100)),
        ("bytes=9-5", None),
        ("bytes=-", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_is_read_or_passed_over(header: str | None, expected: range | None) -> None:
    assert range_of(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=500-600", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        range_of(header, 100)
