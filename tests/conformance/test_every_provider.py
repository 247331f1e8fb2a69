"""Every provider over a socket: what a worker makes of its answers, its failures and its silences."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from shared.domain.job import JobKind
from shared.errors import (
    BrokerError,
    InvalidRequest,
    ProviderAnswerInvalid,
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from shared.providers.limits import read_limits
from shared.providers.profile import Capability
from shared.providers.registry import BUILT_IN
from tests.conformance import goldens
from tests.conformance.live import HASTY, Caller
from tests.fakes.provider import CallRecord, ScriptedProvider

TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TWO_CALLS: Final = [
    {"name": "get_weather", "arguments": {"city": "Paris, 巴黎"}},
    {"name": "get_weather", "arguments": {"city": "Rome"}},
]


PATHS: Final[dict[JobKind, set[str]]] = {
    JobKind.CHAT: {
        "/openai/v1/chat/completions",
        "/anthropic/v1/messages",
        "/deepseek/chat/completions",
        "/openrouter/api/v1/chat/completions",
        "/perplexity/chat/completions",
        "/huggingface/v1/chat/completions",
    },
    JobKind.COMPLETION: {"/deepseek/beta/completions", "/openrouter/api/v1/completions"},
    JobKind.EMBEDDINGS: {
        "/perplexity/v1/embeddings",
        "/huggingface/hf-inference/models/scripted-model/pipeline/feature-extraction",
    },
    JobKind.RERANK: {"/nvidia_nim/v1/retrieval/scripted-model/reranking", "/openrouter/api/v1/rerank"},
    JobKind.SUMMARIZATION: {"/huggingface/hf-inference/models/scripted-model/pipeline/summarization"},
    JobKind.COUNT_TOKENS: {"/anthropic/v1/messages/count_tokens"},
}
"""Where providers have it that have no /v1, or more than one origin."""
INTERNAL = {JobKind.CREDENTIAL_CHECK, JobKind.PROVIDER_BATCH}


@pytest.fixture(params=list(BUILT_IN.values()), ids=list(BUILT_IN))
def caller(request: pytest.FixtureRequest, provider: ScriptedProvider) -> Caller:
    return Caller(request.param, provider)


async def only_call(caller: Caller) -> CallRecord:
    (call,) = await caller.provider.calls(closed=1)
    return call


async def test_a_plain_answer(caller: Caller) -> None:
    heard = await caller.say("Grüße 🌍")

    assert heard.error is None
    assert goldens.plain_message(orjson.dumps(heard.body))["content"] == "You said: Grüße 🌍"
    assert heard.body["object"] == "chat.completion"
    assert heard.progress.usage is not None
    assert heard.progress.usage.prompt_tokens > 0
    assert heard.progress.usage.completion_tokens > 0
    assert heard.progress.finish_reason == "stop"


async def test_a_stream_says_the_same(caller: Caller) -> None:
    plain = await caller.say("Grüße 🌍, and more")
    streamed = await caller.say("Grüße 🌍, and more", stream=True)

    assert streamed.error is None
    said = goldens.plain_message(orjson.dumps(plain.body))
    assert goldens.assembled(streamed.events)["content"] == said["content"]
    assert streamed.progress.finish_reason == said["finish_reason"]
    assert streamed.progress.usage == plain.progress.usage


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_in_parallel(caller: Caller, stream: bool) -> None:
    if Capability.FUNCTION_CALLING not in caller.profile.capabilities:
        heard = await caller.say("Hello", tools=[TOOL])
        assert isinstance(heard.error, InvalidRequest)
        assert (heard.error.status, heard.error.param) == (400, "tools")
        return
    cue = orjson.dumps({"tool_calls": TWO_CALLS}).decode()
    messages = [{"role": "user", "content": f"!script {cue}"}]

    heard = await caller.call(body={"messages": messages, "tools": [TOOL]}, stream=stream)

    assert heard.error is None
    said = goldens.assembled(heard.events) if stream else goldens.plain_message(orjson.dumps(heard.body))
    assert [call["arguments"]["city"] for call in said["calls"]] == ["Paris, 巴黎", "Rome"]
    assert len({call["id"] for call in said["calls"]}) == 2
    assert heard.progress.finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("cue", "kind", "status", "retryable", "counts"),
    [
        ({"status": 400}, ProviderRejected, 400, False, False),
        ({"status": 404}, ProviderRejected, 404, False, False),
        ({"status": 413}, ProviderRejected, 413, False, False),
        ({"status": 422}, ProviderRejected, 422, False, False),
        ({"status": 401}, ProviderCredentialRefused, 502, False, False),
        ({"status": 403}, ProviderCredentialRefused, 502, False, False),
        ({"status": 402}, ProviderCredentialRefused, 502, False, False),
        ({"status": 429, "error_code": "insufficient_quota"}, ProviderCredentialRefused, 502, False, False),
        ({"status": 429}, ProviderRateLimited, 429, True, False),
        ({"status": 529}, ProviderUnavailable, 503, True, True),
        ({"status": 500}, ProviderUnavailable, 502, True, True),
        ({"status": 502}, ProviderUnavailable, 502, True, True),
        ({"status": 503}, ProviderUnavailable, 503, True, True),
        ({"status": 504}, ProviderUnavailable, 502, True, True),
        ({"status": 408}, ProviderUnavailable, 502, True, True),
        ({"status": 409}, ProviderError, 502, False, False),
        ({"status": 400, "error_code": "content_filter"}, ProviderRejected, 400, False, False),
    ],
    ids=str,
)
async def test_each_row_of_the_mapping_table(
    caller: Caller,
    stream: bool,
    cue: dict[str, Any],
    kind: type[ProviderError],
    status: int,
    retryable: bool,
    counts: bool,
) -> None:
    heard = await caller.script(stream=stream, **cue)

    error = heard.error
    assert type(error) is kind
    assert error is not None
    assert (error.status, error.retryable, kind.counts_for_breaker) == (status, retryable, counts)
    assert error.details["provider"] == caller.profile.id
    assert error.details["provider_status"] == cue["status"]
    assert error.code
    if kind is not ProviderRejected:
        assert error.code == kind.code
    elif "error_code" in cue:
        assert error.code in {cue["error_code"], kind.code}, "Anthropic's errors have a type alone"


async def test_its_wish_to_wait_is_heard(caller: Caller) -> None:
    heard = await caller.script(status=429, headers={"retry-after": "7"})

    assert heard.error is not None
    assert heard.error.retry_after_seconds == 7


async def test_an_error_inside_a_stream_that_began(caller: Caller) -> None:
    heard = await caller.script(stream=True, text="one two three", chunks=3, error_in_stream=2)

    assert isinstance(heard.error, ProviderError)
    assert goldens.assembled(heard.events)["content"].startswith("one")
    assert heard.progress.emitted > 0


@pytest.mark.parametrize(
    ("cue", "stream", "phase"),
    [
        ({"hang": "before_headers"}, True, "first byte"),
        ({"hang": "after_headers"}, True, "first byte"),
        ({"hang": "mid_stream"}, True, "idle"),
        ({"hang": "before_headers"}, False, "total"),
        ({"hang": "mid_stream"}, False, "total"),
        ({"slow_drip_ms": 20}, True, "total"),
    ],
    ids=str,
)
async def test_each_phase_has_its_clock(
    caller: Caller, cue: dict[str, Any], stream: bool, phase: str
) -> None:
    heard = await caller.script(stream=stream, settings=HASTY, **cue)

    assert isinstance(heard.error, ProviderTimeout), heard
    assert f"({phase}, " in heard.error.message
    assert (await only_call(caller)).outcome == "client_closed"


@pytest.fixture
def full_backlog() -> Iterator[int]:
    """The port of a socket on which connection attempts are left without an answer."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_the_phase_of_connecting_has_its_clock(caller: Caller, full_backlog: int) -> None:
    nowhere = Caller(caller.profile, caller.provider, url=f"http://127.0.0.1:{full_backlog}/v1")

    heard = await nowhere.call(settings=HASTY)

    assert isinstance(heard.error, ProviderTimeout)
    assert "connected" in heard.error.message
    assert not heard.progress.sent


async def test_a_call_that_ends_while_it_connects_has_sent_nothing(caller: Caller, full_backlog: int) -> None:
    nowhere = Caller(caller.profile, caller.provider, url=f"http://127.0.0.1:{full_backlog}/v1")

    heard = await nowhere.call(settings=HASTY.model_copy(update={"connect_seconds": 60.0}))

    assert isinstance(heard.error, ProviderTimeout)
    assert "did not answer in time" in heard.error.message
    assert not heard.progress.sent


async def test_a_call_that_was_answered_was_sent(caller: Caller) -> None:
    heard = await caller.say("Hello")

    assert heard.progress.sent


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_provider_that_is_not_there_or_speaks_no_tls(caller: Caller, scheme: str) -> None:
    at = caller.provider.url.removeprefix("http://") if scheme == "https" else "127.0.0.1:1"
    nowhere = Caller(caller.profile, caller.provider, url=f"{scheme}://{at}/v1")

    heard = await nowhere.call()

    assert type(heard.error) is ProviderUnavailable
    assert (heard.error.status, heard.error.retryable) == (502, True)
    assert "127.0.0.1" not in heard.error.message
    assert not heard.progress.sent


@pytest.mark.parametrize(
    ("cue", "stream"),
    [({"hang": "before_headers"}, False), ({"hang": "mid_stream"}, False), ({"hang": "mid_stream"}, True)],
    ids=str,
)
async def test_a_cancelled_call_closes_its_connection_within_a_second(
    caller: Caller, cue: dict[str, Any], stream: bool
) -> None:
    task = asyncio.create_task(caller.script(stream=stream, **cue))
    await caller.provider.calls(opened=1)

    async with asyncio.timeout(1):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        call = await only_call(caller)

    assert call.outcome == "client_closed"


@pytest.mark.parametrize(
    ("cue", "stream"),
    [
        ({"cut": "fin"}, False),
        ({"cut": "rst"}, True),
        ({"cut": "fin", "cut_at_byte": 40}, False),
        ({"cut": "rst", "cut_at_byte": 40}, False),
        ({"text": "a b c", "chunks": 3, "cut": "fin", "cut_after_chunks": 2}, True),
        ({"text": "a b c", "chunks": 3, "cut": "rst", "cut_after_chunks": 2}, True),
    ],
    ids=str,
)
async def test_an_answer_cut_short_is_never_whole(caller: Caller, cue: dict[str, Any], stream: bool) -> None:
    heard = await caller.script(stream=stream, **cue)

    assert isinstance(heard.error, ProviderUnavailable)
    assert heard.body == {}


async def test_a_stream_without_its_last_frame_is_whole_once_it_said_why_it_ended(caller: Caller) -> None:
    heard = await caller.script(stream=True, no_done=True)

    assert heard.error is None
    assert goldens.assembled(heard.events)["content"] == "You said: Hello"
    assert heard.progress.finish_reason == "stop"


async def test_a_stream_that_ends_before_it_said_why_is_cut_short(caller: Caller) -> None:
    frames = goldens.read(caller.profile, "text.sse").decode().split("\n\n")

    heard = await caller.script(stream=True, body="\n\n".join(frames[: len(frames) // 2]) + "\n\n")

    assert type(heard.error) is ProviderUnavailable
    assert heard.events
    assert heard.progress.finish_reason is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_filtered_answer_is_an_answer_that_says_so(caller: Caller, stream: bool) -> None:
    heard = await caller.script(stream=stream, finish_reason="content_filter")

    assert heard.error is None
    assert heard.progress.finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("cue", "stream"),
    [
        ({"garbage": "html"}, False),
        ({"garbage": "html"}, True),
        ({"garbage": "truncated_json"}, False),
        ({"garbage": "truncated_json"}, True),
        ({"garbage": "wrong_schema"}, False),
        ({"garbage": "wrong_schema"}, True),
        ({"garbage": "invalid_utf8"}, False),
        ({"garbage": "invalid_utf8"}, True),
        ({"garbage": "nan"}, False),
        ({"garbage": "nan"}, True),
        ({"garbage": "bad_sse"}, False),
        ({"huge_body_mb": 1}, False),
        ({"huge_body_mb": 2}, True),
        ({"huge_header_kb": 100}, False),
        ({"huge_header_kb": 100}, True),
        ({"gzip_bomb_mb": 5}, False),
    ],
    ids=str,
)
async def test_garbage_and_floods_are_no_answer(caller: Caller, cue: dict[str, Any], stream: bool) -> None:
    heard = await caller.script(stream=stream, **cue)

    assert isinstance(heard.error, ProviderAnswerInvalid), heard.error
    assert heard.error.status == 502


async def test_a_stream_that_is_packed_unasked_is_not_unpacked(caller: Caller) -> None:
    heard = await caller.script(stream=True, gzip_bomb_mb=5)

    assert isinstance(heard.error, ProviderUnavailable | ProviderAnswerInvalid)
    assert heard.events == []


async def test_a_redirect_is_not_followed(caller: Caller) -> None:
    heard = await caller.script(redirect=f"{caller.provider.url}/elsewhere/chat/completions")

    assert isinstance(heard.error, ProviderError)
    assert heard.error.status == 502
    assert len(await caller.provider.calls(closed=1)) == 1


async def test_it_tells_limits_as_in_its_golden_headers(caller: Caller) -> None:
    heard = await caller.say("Hello")

    limits = read_limits({k.lower(): v for k, v in heard.progress.headers.items()}, goldens.NOW)
    told = limits.to_fields() if limits else {}
    means = orjson.loads(goldens.read(caller.profile, "limits.json"))["means"]
    assert means.keys() <= told.keys()
    assert all(told[subject]["remaining"] < told[subject]["limit"] for subject in means)


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(caller: Caller, encoding: str) -> None:
    body = {"input": ["one", "two"], "encoding_format": encoding}
    heard = await caller.call(JobKind.EMBEDDINGS, body)

    if not caller.profile.serves(JobKind.EMBEDDINGS):
        assert isinstance(heard.error, InvalidRequest)
        assert (heard.error.status, heard.error.code) == (400, "unsupported_by_provider")
        return
    assert heard.error is None
    vectors = [item["embedding"] for item in heard.body["data"]]
    assert [type(vector) for vector in vectors] == [list if encoding == "float" else str] * 2
    assert vectors[0] != vectors[1]


async def test_rerank(caller: Caller) -> None:
    body = {"query": "red fish", "documents": ["a blue bird", "a red fish", "red"], "top_n": 2}
    heard = await caller.call(JobKind.RERANK, body)

    if not caller.profile.serves(JobKind.RERANK):
        assert isinstance(heard.error, InvalidRequest)
        assert (heard.error.status, heard.error.code) == (400, "unsupported_by_provider")
        return
    assert heard.error is None
    results = heard.body["results"]
    assert [result["index"] for result in results] == [1, 2]
    assert 1 >= results[0]["relevance_score"] > results[1]["relevance_score"] > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_completion(caller: Caller, stream: bool) -> None:
    heard = await caller.call(JobKind.COMPLETION, {"prompt": "Once upon"}, stream=stream)

    assert heard.error is None
    parts = heard.events if stream else [heard.body]
    assert {part["object"] for part in parts} == {"text_completion"}
    text = "".join(choice["text"] for part in parts for choice in part["choices"])
    assert text == "You said: Once upon"
    assert heard.progress.usage is not None


async def test_a_summary(caller: Caller) -> None:
    heard = await caller.call(JobKind.SUMMARIZATION, {"text": "A long text about fish."})

    assert heard.error is None
    assert "A long text about fish." in heard.body["summary"]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_messages(caller: Caller, stream: bool) -> None:
    heard = await caller.call(JobKind.MESSAGES, stream=stream)

    assert heard.error is None
    if stream:
        kinds = [event["type"] for event in heard.events]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        deltas = [event["delta"] for event in heard.events if event["type"] == "content_block_delta"]
        assert "".join(delta["text"] for delta in deltas) == "You said: Hello"
    else:
        assert heard.body["content"] == [{"type": "text", "text": "You said: Hello"}]
        assert heard.body["stop_reason"] == "end_turn"


async def test_a_count_of_tokens(caller: Caller) -> None:
    heard = await caller.call(JobKind.COUNT_TOKENS)

    if not caller.profile.serves(JobKind.COUNT_TOKENS):
        assert isinstance(heard.error, InvalidRequest)
        assert (heard.error.status, heard.error.code) == (400, "unsupported_by_provider")
        return
    assert heard.error is None
    assert heard.body == {"input_tokens": 2}


@pytest.mark.parametrize("kind", [k for k in JobKind if k not in INTERNAL], ids=str)
async def test_each_kind_goes_to_the_path_where_the_provider_has_it(
    provider: ScriptedProvider, kind: JobKind
) -> None:
    for profile in BUILT_IN.values():
        hosted = Caller.as_hosted(profile, provider)
        if profile.serves(kind):
            heard = await hosted.call(kind)
            assert heard.error is None, (profile.id, heard.error)
    paths = {call.path for call in await provider.calls()}

    assert paths >= PATHS.get(kind, set())


@pytest.mark.parametrize("stream", [False, True])
async def test_openais_responses(caller: Caller, stream: bool) -> None:
    heard = await caller.call(JobKind.RESPONSES, stream=stream)

    assert heard.error is None
    response = heard.body
    if stream:
        numbers = [event["sequence_number"] for event in heard.events]
        assert numbers == list(range(len(numbers)))
        assert heard.events[-1]["type"] == "response.completed"
        response = heard.events[-1]["response"]
    assert response["status"] == "completed"
    texts = [part["text"] for item in response["output"] for part in item.get("content", ())]
    assert texts == ["You said: Hello"]


@pytest.mark.parametrize(
    ("name", "options", "body", "headers"),
    [
        ("anthropic", {"anthropic_version": "2023-06-01"}, {}, {"anthropic-version": "2023-06-01"}),
        ("deepseek", {"top_p": 0.9, "frequency_penalty": 0.5}, {"top_p": 0.9, "frequency_penalty": 0.5}, {}),
        ("xai", {"reasoning_effort": "high", "temperature": 0.7}, {"reasoning_effort": "high"}, {}),
        (
            "openrouter",
            {"site_url": "https://a.example", "app_name": "A", "transforms": ["middle-out"]},
            {"plugins": [{"id": "context-compression", "engine": "middle-out"}]},
            {"http-referer": "https://a.example", "x-openrouter-title": "A"},
        ),
        (
            "litellm",
            {"fallback_models": ["gpt-4o"], "cache": True},
            {"fallbacks": ["gpt-4o"], "cache": {"use-cache": True}},
            {},
        ),
        ("nvidia_nim", {"top_p": 0.9, "max_completion_tokens": 9}, {"top_p": 0.9, "max_tokens": 9}, {}),
        ("perplexity", {"reasoning_effort": "high"}, {"reasoning_effort": "high"}, {}),
        ("huggingface", {"use_cache": False}, {}, {"x-use-cache": "0"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_options_of_one_provider_reach_it_in_its_own_form(
    provider: ScriptedProvider,
    name: str,
    options: dict[str, Any],
    body: dict[str, Any],
    headers: dict[str, str],
) -> None:
    caller = Caller(BUILT_IN[name], provider)

    heard = await caller.say("Hello", **options)

    assert heard.error is None
    received = (await only_call(caller)).received
    assert received is not None
    assert {key: received["body"].get(key) for key in body} == body
    assert {key: received["headers"].get(key) for key in headers} == headers
    gone = {"transforms", "site_url", "app_name", "fallback_models", "use_cache", "anthropic_version"}
    assert not gone & received["body"].keys()


async def test_a_partner_before_a_repository_goes_behind_it_on_hugging_faces_router(
    provider: ScriptedProvider,
) -> None:
    caller = Caller(BUILT_IN["huggingface"], provider)

    await caller.say("Hello", of="together/deepseek-ai/DeepSeek-R1")
    await caller.say("Hello", of="deepseek-ai/DeepSeek-R1")

    calls = await provider.calls(closed=2)
    assert [call.model for call in calls] == ["deepseek-ai/DeepSeek-R1:together", "deepseek-ai/DeepSeek-R1"]


async def test_parameters_we_do_not_know_pass(caller: Caller) -> None:
    heard = await caller.say("Hello", frobnicate={"deeply": [1]})

    assert heard.error is None
    received = (await only_call(caller)).received
    assert received is not None
    assert received["body"]["frobnicate"] == {"deeply": [1]}


async def test_an_answer_promised_with_202_is_asked_after(provider: ScriptedProvider) -> None:
    caller = Caller(BUILT_IN["nvidia_nim"], provider)

    heard = await caller.script(pending=2)
    other = await Caller(BUILT_IN["openai"], provider).script(pending=1)

    assert heard.error is None
    assert goldens.plain_message(orjson.dumps(heard.body))["content"] == "You said: Hello"
    assert isinstance(other.error, BrokerError)
    assert other.error.status == 502


async def test_golden_answers_over_the_wire(caller: Caller) -> None:
    for name in goldens.answers(caller.profile):
        plain = await caller.script(golden=name)
        streamed = await caller.script(golden=name, stream=True)

        assert plain.error is None, name
        assert streamed.error is None, name
        said = goldens.plain_message(orjson.dumps(plain.body))
        reason = said.pop("finish_reason")
        assert goldens.assembled(streamed.events) == said, name
        assert streamed.progress.finish_reason == plain.progress.finish_reason == reason, name
        assert streamed.progress.usage == plain.progress.usage == goldens.usage(caller.profile), name


@pytest.mark.parametrize("stream", [False, True])
async def test_golden_errors_over_the_wire(caller: Caller, stream: bool) -> None:
    for golden in goldens.errors(caller.profile):
        name = f"{golden.stem}.{golden.status}.error"

        failed = await caller.script(stream=stream, status=golden.status, golden=name)

        assert type(failed.error) is goldens.MEANS[golden.stem], name
        assert failed.error.provider_status == golden.status
