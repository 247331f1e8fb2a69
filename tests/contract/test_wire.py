"""What a client may do on the wire that no library shows: odd splits, pipelining, keep-alive."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.acceptance.raw_http import exchange, exchange_many, request
from tests.contract.broker import BrokerUnderTest

pytestmark = pytest.mark.xdist_group("contract")

PATHS = ("/v1/chat/completions", "/api/v1/chat")
EMOJI = "水車 👩‍👩‍👧‍👦 🇩🇪"


def _body(text: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": text}]
    document = {"model": "gpt-4o-mini", "messages": messages, **fields}
    return json.dumps(document, ensure_ascii=False).encode()


def _request(broker: BrokerUnderTest, path: str, body: bytes, *, chunked: bool = False) -> bytes:
    headers = [
        (b"Authorization", b"Bearer " + broker.api_key.encode()),
        (b"Content-Type", b"application/json"),
        *([(b"Transfer-Encoding", b"chunked")] if chunked else []),
    ]
    return request(target=path.encode(), headers=headers, body=body, with_length=not chunked)


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_that_arrives_byte_by_byte_is_understood(broker: BrokerUnderTest, path: str) -> None:
    whole = _request(broker, path, _body(EMOJI))

    answer = await exchange(broker.url, *(whole[at : at + 1] for at in range(len(whole))))

    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == f"You said: {EMOJI}"


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_in_chunks_that_cut_characters_in_half_is_understood(
    broker: BrokerUnderTest, path: str
) -> None:
    body = _body(EMOJI)
    chunks = b"".join(b"3\r\n%b\r\n" % body[at : at + 3] for at in range(0, len(body) - 3, 3))
    rest = body[len(body) - (len(body) - 1) % 3 - 1 :]
    chunks += b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)

    answer = await exchange(broker.url, _request(broker, path, chunks, chunked=True))

    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == f"You said: {EMOJI}"


@pytest.mark.parametrize("path", PATHS)
async def test_requests_sent_without_waiting_are_answered_in_their_order(
    broker: BrokerUnderTest, path: str
) -> None:
    slow = json.dumps({"before_headers_ms": 200})
    texts = [f"!script {slow}\nfirst", "second", "third"]
    sent = b"".join(_request(broker, path, _body(text)) for text in texts)

    answers = await exchange_many(broker.url, sent, count=3)

    contents = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert contents == [f"You said: {word}" for word in ("first", "second", "third")]


@pytest.mark.parametrize("path", PATHS)
def test_a_refusal_leaves_the_connection_open_for_the_next_request(http: httpx.Client, path: str) -> None:
    json_type = {"content-type": "application/json"}

    refused = http.post(path, content=b"{", headers=json_type)
    answered = http.post(path, content=_body("Hello"), headers=json_type)

    assert refused.status_code == 400
    assert answered.status_code == 200
    streams = (response.extensions["network_stream"] for response in (refused, answered))
    ports = {stream.get_extra_info("client_addr") for stream in streams}
    assert len(ports) == 1
