from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from api.request_body import read_body
from shared.errors import PayloadTooLarge


def arriving(*parts: bytes | None) -> tuple[Receive, Iterator[Message]]:
    """A receive channel of these parts; None is the caller leaving. The iterator holds what is unread."""
    messages = iter(
        [
            {"type": "http.disconnect"}
            if part is None
            else {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
    )

    async def receive() -> Message:
        return next(messages)

    return receive, messages


@pytest.mark.parametrize("parts", [(b"",), (b"abcd",), (b"ab", b"cd"), (b"", b"abc", b"", b"d")])
async def test_the_parts_of_a_body_are_joined(parts: tuple[bytes, ...]) -> None:
    receive, _ = arriving(*parts)

    assert await read_body(receive, limit=4) == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"abcde",), (b"abc", b"de"), (b"abc", b"de", b"f" * 100)])
async def test_a_chunked_body_above_the_limit_is_refused(parts: tuple[bytes, ...]) -> None:
    receive, _ = arriving(*parts)

    with pytest.raises(PayloadTooLarge):
        await read_body(receive, limit=4)


async def test_nothing_is_read_after_the_part_that_was_too_much() -> None:
    receive, unread = arriving(b"abc", b"de", b"unread")

    with pytest.raises(PayloadTooLarge):
        await read_body(receive, limit=4)

    assert [message["body"] for message in unread] == [b"unread"]


@pytest.mark.parametrize("parts", [(None,), (b"ab", None)])
async def test_a_caller_that_leaves_half_way_is_gone(parts: tuple[bytes | None, ...]) -> None:
    receive, _ = arriving(*parts)

    with pytest.raises(ClientDisconnect):
        await read_body(receive, limit=4)
