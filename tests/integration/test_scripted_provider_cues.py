"""Every cue of the scripted provider, seen byte for byte over a raw socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httptools
import pytest

from tests.fakes.provider import ScriptedProvider

OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
both = pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
both_ways = pytest.mark.parametrize("stream", [False, True])


@dataclass(slots=True)
class Received:
    """A reply as its bytes arrived. `reads` are the body's parts, one per read that brought any."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reads: list[bytes] = field(default_factory=list)
    is_complete: bool = False
    was_reset: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.reads)

    @property
    def frames(self) -> list[bytes]:
        return [frame for frame in self.body.split(b"\n\n") if frame]

    @property
    def chunks(self) -> int:
        return self.body.count(b'"delta":{"content":"tick ') + self.body.count(b'"text_delta"')

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.reads.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


class Caller:
    """One connection. `read` goes on until the reply is complete, the server closes, or `enough`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, provider: ScriptedProvider) -> Caller:
        host, _, port = provider.url.removeprefix("http://").partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(
        self,
        text: str = "hi",
        *,
        path: str = OPENAI,
        stream: bool = False,
        headers: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": text}]} | fields
        data = json.dumps(body | {"stream": stream}).encode()
        lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}"]
        lines += [f"{k}: {v}" for k, v in ({"x-api-key": "k"} | (headers or {})).items() if v]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)

    async def read(self, *, enough: bytes | None = None) -> Received:
        reply = Received()
        parser = httptools.HttpResponseParser(reply)
        try:
            while not reply.is_complete and not (enough is not None and enough in reply.body):
                data = await self._reader.read(65536)
                if not data:
                    break
                parser.feed_data(data)
        except ConnectionResetError:
            reply.was_reset = True
        if parser.get_status_code():
            reply.status = parser.get_status_code()
        return reply

    async def read_bytes(self, *, until: bytes) -> bytes:
        return await self._reader.readuntil(until)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionResetError:
            return


async def ask(provider: ScriptedProvider, text: str = "hi", **options: Any) -> Received:
    caller = await Caller.connect(provider)
    try:
        caller.send(text, **options)
        return await caller.read()
    finally:
        await caller.close()


async def perform(provider: ScriptedProvider, cue: dict[str, Any], **options: Any) -> Received:
    return await ask(provider, headers={"x-script": json.dumps(cue)}, **options)


def said(reply: Received) -> str:
    text: str = json.loads(reply.body)["choices"][0]["message"]["content"]
    return text


# Giving a cue


async def test_a_directive_in_the_message_is_followed_and_not_repeated(provider: ScriptedProvider) -> None:
    failed = await ask(provider, '!script {"status": 503}\nhello')
    shaped = await ask(provider, '!script {"finish_reason": "length"}\nhello')

    assert failed.status == 503
    assert said(shaped) == "You said: hello"
    assert json.loads(shaped.body)["choices"][0]["finish_reason"] == "length"


async def test_a_header_wins_over_a_directive(provider: ScriptedProvider) -> None:
    reply = await ask(provider, '!script {"status": 503}', headers={"x-script": '{"status": 418}'})

    assert reply.status == 418


async def test_a_preset_is_consumed_in_order(provider: ScriptedProvider) -> None:
    await provider.script({"status": 500}, {"status": 429})

    assert [(await ask(provider)).status for _ in range(3)] == [500, 429, 200]


async def test_a_preset_with_a_match_waits_for_its_text(provider: ScriptedProvider) -> None:
    await provider.script({"status": 500}, match="needle", repeat=True)

    assert [(await ask(provider, text)).status for text in ("hay", "a needle", "needle")] == [200, 500, 500]


async def test_a_conversation_that_ends_in_a_tool_result_has_had_its_directive(
    provider: ScriptedProvider,
) -> None:
    messages = [
        {"role": "user", "content": '!script {"status": 503}'},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    reply = await ask(provider, messages=messages)

    assert said(reply) == "The tool said: 42"


@pytest.mark.parametrize("cue", ['{"stauts": 1}', "not json", '{"status": 42}', '{"hang": "forever"}'])
async def test_a_cue_nobody_knows_is_refused(provider: ScriptedProvider, cue: str) -> None:
    reply = await ask(provider, headers={"x-script": cue})

    assert reply.status == 400
    assert b"Bad cue" in reply.body


async def test_a_preset_nobody_knows_is_refused(provider: ScriptedProvider) -> None:
    with pytest.raises(ValueError, match=r"cues\.0\.stauts"):
        await provider.script({"stauts": 1})


async def test_fail_times_fails_so_often_and_then_answers_well(provider: ScriptedProvider) -> None:
    cue = {"status": 529, "fail_times": {"key": "k1", "n": 2}, "text": "at last"}
    replies = [await perform(provider, cue) for _ in range(3)]
    other = await perform(provider, {"fail_times": {"key": "k2", "n": 1}})

    assert [reply.status for reply in replies] == [529, 529, 200]
    assert said(replies[2]) == "at last"
    assert other.status == 503


# Shaping the answer


async def test_a_size_is_met_to_the_byte(provider: ScriptedProvider) -> None:
    assert len(said(await perform(provider, {"size": 10_001}))) == 10_001


@both
async def test_so_many_chunks_are_streamed_as_asked(provider: ScriptedProvider, path: str) -> None:
    reply = await perform(provider, {"chunks": 50}, path=path, stream=True)

    assert reply.chunks == 50
    assert [call.chunks_sent for call in await provider.calls(closed=1)] == [50]


async def test_a_text_is_cut_into_as_many_chunks_as_asked(provider: ScriptedProvider) -> None:
    reply = await perform(provider, {"text": "0123456789", "chunks": 3}, stream=True)
    deltas = [json.loads(frame[6:])["choices"][0]["delta"] for frame in reply.frames[:-1]]

    assert [delta["content"] for delta in deltas if delta.get("content")] == ["012", "345", "6789"]


async def test_finish_reasons_are_translated_between_the_dialects(provider: ScriptedProvider) -> None:
    theirs = await perform(provider, {"finish_reason": "length"}, path=ANTHROPIC)
    ours = await perform(provider, {"finish_reason": "refusal"})

    assert json.loads(theirs.body)["stop_reason"] == "max_tokens"
    assert json.loads(ours.body)["choices"][0]["finish_reason"] == "content_filter"


@both
@both_ways
async def test_usage_is_left_out_on_cue(provider: ScriptedProvider, path: str, stream: bool) -> None:
    reply = await perform(
        provider, {"no_usage": True}, path=path, stream=stream, stream_options={"include_usage": True}
    )

    assert reply.is_complete
    assert b"usage" not in reply.body


# Statuses, headers and bodies


async def test_headers_replace_ours_of_the_same_name(provider: ScriptedProvider) -> None:
    headers = {"Retry-After": "7", "X-RateLimit-Remaining-Requests": "0"}
    reply = await perform(provider, {"status": 429, "headers": headers})

    assert reply.status == 429
    assert reply.headers["retry-after"] == "7"
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert json.loads(reply.body)["error"]["code"] == "rate_limit_exceeded"


async def test_a_body_is_sent_as_it_is(provider: ScriptedProvider) -> None:
    failed = await perform(provider, {"status": 422, "body": '{"detail":[]}'}, stream=True)
    streamed = await perform(provider, {"body": ": hi\n\ndata: [DONE]\n\n"}, stream=True)

    assert (failed.status, failed.body) == (422, b'{"detail":[]}')
    assert streamed.body == b": hi\n\ndata: [DONE]\n\n"
    assert streamed.headers["content-type"].startswith("text/event-stream")


async def test_a_redirect_names_where_to_go(provider: ScriptedProvider) -> None:
    reply = await perform(provider, {"redirect": "http://127.0.0.1:1/"})

    assert (reply.status, reply.headers["location"]) == (307, "http://127.0.0.1:1/")


async def test_a_huge_header_is_as_long_as_asked(provider: ScriptedProvider) -> None:
    assert len((await perform(provider, {"huge_header_kb": 20})).headers["x-padding"]) == 20_000


@both_ways
async def test_a_huge_body_is_valid_and_as_big_as_asked(provider: ScriptedProvider, stream: bool) -> None:
    reply = await perform(provider, {"huge_body_mb": 3}, stream=stream)

    assert reply.is_complete
    assert reply.body.count(b"a" * 1000) == 3000
    assert max(len(frame) for frame in reply.frames) > 3_000_000


@both_ways
async def test_a_gzip_bomb_is_small_until_it_is_opened(provider: ScriptedProvider, stream: bool) -> None:
    reply = await perform(provider, {"gzip_bomb_mb": 5}, stream=stream)

    assert reply.headers["content-encoding"] == "gzip"
    assert len(reply.body) < 50_000
    assert len(gzip.decompress(reply.body)) > 5_000_000


# Timing


@pytest.mark.parametrize("phase", ["before_headers_ms", "before_body_ms", "between_chunks_ms"])
async def test_a_delay_is_kept(provider: ScriptedProvider, phase: str) -> None:
    began = time.monotonic()
    reply = await perform(provider, {phase: 30, "chunks": 1}, stream=True)

    assert reply.is_complete
    assert time.monotonic() - began >= 0.03


async def test_chunks_with_a_delay_between_them_arrive_one_by_one(provider: ScriptedProvider) -> None:
    reply = await perform(provider, {"between_chunks_ms": 5, "chunks": 3}, stream=True)

    assert len(reply.reads) >= 2
    assert reply.chunks == 3


@both_ways
async def test_a_slow_drip_brings_single_bytes(provider: ScriptedProvider, stream: bool) -> None:
    reply = await perform(provider, {"slow_drip_ms": 1, "body": "abcdefgh"}, stream=stream)

    assert reply.body == b"abcdefgh"
    assert len(reply.reads) >= 2


@both
@both_ways
async def test_split_writes_break_characters_and_lose_nothing(
    provider: ScriptedProvider, path: str, stream: bool
) -> None:
    reply = await perform(provider, {"split_writes": True, "text": "😀é" * 6}, path=path, stream=stream)

    assert reply.is_complete
    assert "😀é" in reply.body.decode()
    assert any(read and read[0] & 0xC0 == 0x80 for read in reply.reads)


async def test_comments_come_before_the_first_frame(provider: ScriptedProvider) -> None:
    streamed = await perform(provider, {"keepalive_comments": 3}, stream=True)
    plain = await perform(provider, {"keepalive_comments": 3})

    assert streamed.body.startswith(b": keep-alive\n\n" * 3 + b"data: ")
    assert plain.body.startswith(b"\n\n\n{")
    assert json.loads(plain.body)["choices"]


# Cuts and hangs


@both_ways
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_at_a_byte_sends_so_many_and_closes(
    provider: ScriptedProvider, how: str, stream: bool
) -> None:
    reply = await perform(provider, {"cut": how, "cut_at_byte": 25}, stream=stream)

    assert (len(reply.body), reply.is_complete) == (25, False)
    assert reply.was_reset == (how == "rst")
    assert [call.outcome for call in await provider.calls(closed=1)] == ["cut"]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_cut_alone_sends_nothing(provider: ScriptedProvider, how: str) -> None:
    reply = await perform(provider, {"cut": how})

    assert (reply.status, reply.body, reply.was_reset) == (None, b"", how == "rst")
    assert [call.status for call in await provider.calls(closed=1)] == [None]


@both
async def test_a_cut_after_chunks_sends_so_many(provider: ScriptedProvider, path: str) -> None:
    reply = await perform(provider, {"cut_after_chunks": 2, "chunks": 9}, path=path, stream=True)

    assert (reply.chunks, reply.is_complete) == (2, False)
    assert [call.chunks_sent for call in await provider.calls(closed=1)] == [2]


@both_ways
@pytest.mark.parametrize("where", ["before_headers", "after_headers", "mid_stream"])
async def test_a_hang_lasts_until_the_client_leaves(
    provider: ScriptedProvider, where: str, stream: bool
) -> None:
    caller = await Caller.connect(provider)
    caller.send(stream=stream, headers={"x-script": json.dumps({"hang": where})})
    if where == "mid_stream":
        await caller.read(enough=b"You" if stream else b"chat.completion")
    hanging = await provider.calls(opened=1)
    await caller.close()

    assert hanging[0].is_open
    assert [call.outcome for call in await provider.calls(closed=1)] == ["client_closed"]


# Broken streams and bodies


async def test_a_stream_ends_without_done_on_cue(provider: ScriptedProvider) -> None:
    ours = await perform(provider, {"no_done": True}, stream=True)
    theirs = await perform(provider, {"no_done": True}, stream=True, path=ANTHROPIC)

    assert ours.is_complete
    assert b"[DONE]" not in ours.body
    assert theirs.is_complete
    assert b"message_stop" not in theirs.body


@both
async def test_an_error_frame_is_the_last_frame(provider: ScriptedProvider, path: str) -> None:
    cue = {"error_in_stream": 2, "chunks": 5, "error_message": "lost it"}
    reply = await perform(provider, cue, path=path, stream=True)

    assert (reply.status, reply.chunks, reply.is_complete) == (200, 2, True)
    assert json.loads(reply.frames[-1].partition(b"data: ")[2])["error"]["message"] == "lost it"


async def test_an_error_in_a_plain_reply_is_a_200(provider: ScriptedProvider) -> None:
    reply = await perform(provider, {"error_in_stream": 0})

    assert reply.status == 200
    assert "error" in json.loads(reply.body)


@both
@both_ways
async def test_html_is_sent_on_cue(provider: ScriptedProvider, path: str, stream: bool) -> None:
    reply = await perform(provider, {"garbage": "html", "status": 502}, path=path, stream=stream)

    assert reply.status == 502
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.body.startswith(b"<html>")


def is_json(payload: bytes) -> bool:
    try:
        json.loads(payload)
    except ValueError:
        return False
    return True


def payloads(reply: Received, *, stream: bool) -> list[bytes]:
    """The JSON of a body, or of each frame that has one."""
    if not stream:
        return [reply.body]
    found = [frame.partition(b"data: ")[2] for frame in reply.frames]
    return [payload for payload in found if payload.startswith(b"{")]


@both
@both_ways
@pytest.mark.parametrize("garbage", ["truncated_json", "invalid_utf8"])
async def test_unreadable_json_is_sent_on_cue(
    provider: ScriptedProvider, garbage: str, path: str, stream: bool
) -> None:
    reply = await perform(provider, {"garbage": garbage}, path=path, stream=stream)

    assert reply.is_complete
    assert not all(is_json(payload) for payload in payloads(reply, stream=stream))


@both
@both_ways
async def test_nan_is_sent_on_cue(provider: ScriptedProvider, path: str, stream: bool) -> None:
    reply = await perform(provider, {"garbage": "nan"}, path=path, stream=stream)

    assert b":NaN" in reply.body
    assert all(json.loads(payload) for payload in payloads(reply, stream=stream))


@both
@both_ways
async def test_another_schema_is_sent_on_cue(provider: ScriptedProvider, path: str, stream: bool) -> None:
    reply = await perform(provider, {"garbage": "wrong_schema"}, path=path, stream=stream)

    objects = [json.loads(payload) for payload in payloads(reply, stream=stream)]
    assert any(thing.get("object") == "surprise" for thing in objects)


async def test_broken_sse_is_sent_on_cue(provider: ScriptedProvider) -> None:
    streamed = await perform(provider, {"garbage": "bad_sse"}, stream=True)
    plain = await perform(provider, {"garbage": "bad_sse"})

    assert b"date {" in streamed.body
    assert plain.headers["content-type"].startswith("text/event-stream")
    assert plain.body.startswith(b"data: {")


# Refusals


@both
async def test_a_call_without_credential_is_refused(provider: ScriptedProvider, path: str) -> None:
    reply = await ask(provider, path=path, headers={"x-api-key": ""})

    error = json.loads(reply.body)["error"]
    assert reply.status == 401
    assert (error["type"] if path == ANTHROPIC else error["code"]) in (
        "authentication_error",
        "invalid_api_key",
    )


async def test_anthropic_requires_max_tokens_and_openai_does_not(provider: ScriptedProvider) -> None:
    theirs = await ask(provider, path=ANTHROPIC, max_tokens=None)
    ours = await ask(provider, max_tokens=None)

    assert (theirs.status, ours.status) == (400, 200)
    assert b"max_tokens: Field required" in theirs.body


@pytest.mark.parametrize("prefix", ["", "/v1", "/api/v1", "/models/org/name/v1"])
async def test_any_prefix_is_served(provider: ScriptedProvider, prefix: str) -> None:
    assert (await ask(provider, path=f"{prefix}/chat/completions?x=1")).status == 200


async def test_a_connection_serves_call_after_call_also_pipelined(provider: ScriptedProvider) -> None:
    caller = await Caller.connect(provider)
    caller.send("one", headers={"x-script": '{"before_body_ms": 5}'})
    caller.send("two")
    replies = await caller.read_bytes(until=b"said: two")
    await caller.close()

    assert replies.count(b"HTTP/1.1 200 OK") == 2
    assert replies.index(b"said: one") < replies.index(b"said: two")
    assert [call.outcome for call in await provider.calls(closed=2)] == ["complete"] * 2
