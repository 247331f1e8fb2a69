"""However a stream ends, its caller is told."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.sse import DONE, EventStream, RenderEvent, StreamForm
from shared.domain.job import Surface
from shared.ids import RequestId
from tests.unit.api.test_replies import Log, a_reply, ended, never
from tests.unit.observability.log_lines import LogLines, captured


@pytest.fixture
def lines() -> Iterator[LogLines]:
    with captured() as lines:
        yield lines


def unreadable(event: bytes) -> bytes:
    return event if event == b"event 1" else event["delta"]  # type: ignore[call-overload]  # fails on purpose


async def streamed(
    render: RenderEvent, surface: Surface, *, error: BaseException | None = None
) -> tuple[bytes, dict[str, object]]:
    """The body of a stream of two events, each in a batch of its own, and the state of its exchange."""
    reply = a_reply(Log([1, 1]))
    reply.start_after(0)
    if error is None:
        reply.offer(ended(2))
    else:
        reply.fail(error)
    ends: list[None] = []
    stream = EventStream(
        reply,
        surface=surface,
        request_id=RequestId("req_12345678"),
        form=StreamForm(render),
        with_ids=False,
        headers=[],
        heartbeat_seconds=60,
        on_end=lambda: ends.append(None),
    )
    body: list[bytes] = []
    state: dict[str, object] = {}

    async def send(message: Message) -> None:
        body.append(message.get("body", b""))

    try:
        await stream({"type": "http", "state": state}, never, send)
    finally:
        assert ends == [None]
    return b"".join(body), state


async def test_a_whole_stream_ends_with_done(lines: LogLines) -> None:
    body, state = await streamed(lambda event: event, Surface.UNIFIED)

    assert body == b"data: event 1\n\ndata: event 2\n\n" + DONE
    assert not state
    assert not lines.events()


@pytest.mark.parametrize("surface", [Surface.UNIFIED, Surface.INFERENCE, Surface.ANTHROPIC])
async def test_an_event_that_cannot_be_shown_ends_it_with_an_error_event(
    lines: LogLines, surface: Surface
) -> None:
    body, state = await streamed(unreadable, surface)

    first, last = body.removesuffix(b"\n\n").split(b"\n\n")
    assert first == b"data: event 1"
    error = orjson.loads(last.rpartition(b"data: ")[2])["error"]
    assert error["message"] == "The gateway failed to handle this request."
    assert state["error"]
    (line,) = lines.events()
    assert line["request_id"] == "req_12345678"
    assert "TypeError" in str(line)


async def test_a_caller_that_left_is_no_error(lines: LogLines) -> None:
    with pytest.raises(ClientDisconnect):
        await streamed(lambda event: event, Surface.UNIFIED, error=ClientDisconnect())

    assert not lines.events()
