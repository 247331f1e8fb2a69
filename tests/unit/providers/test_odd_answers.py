"""Whatever stands where in a provider's answer: it is read, or refused as an answer, and nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
import pytest

from api.legacy.inference import FORM as INFERENCE
from api.unified_v1.chat import FORM as UNIFIED
from shared.domain.job import JobKind, Target
from shared.errors import ProviderError
from shared.providers import deepseek
from shared.providers.dialect import StreamDecoder
from shared.providers.dialects.openai_chat import openai_chat
from shared.providers.dialects.whole_answer import WholeAnswer
from shared.providers.profile import ProviderProfile
from shared.providers.sse_reader import SseEvent
from tests.unit.providers.support import ANTHROPIC, CLAUDE, GPT, OPENAI, a_call, events, golden

ODD: Final[tuple[object, ...]] = (None, True, 7, "x", [], ["x"], [None], {}, {"x": ["y"]})
R1 = Target("deepseek", "deepseek-reasoner")
CHAT_KINDS = (JobKind.CHAT, JobKind.MESSAGES, JobKind.RESPONSES, JobKind.COMPLETION, JobKind.SUMMARIZATION)
PROVIDERS = (
    *((OPENAI, GPT, f"openai/{name}", kind) for name in ("text", "tools") for kind in CHAT_KINDS),
    *((deepseek.PROFILE, R1, "deepseek/reasoning", kind) for kind in CHAT_KINDS),
    (OPENAI, Target("openai", "gpt-3.5-turbo-instruct"), "openai/completion", JobKind.COMPLETION),
    *((ANTHROPIC, CLAUDE, f"anthropic/{name}", kind) for name in ("text", "tools") for kind in CHAT_KINDS),
)
STREAMS = tuple(case for case in PROVIDERS if case[3] is not JobKind.SUMMARIZATION)
REQUEST: Final = {
    "messages": [{"role": "user", "content": "hi"}],
    "input": "hi",
    "prompt": "hi",
    "text": "hi",
    "max_tokens": 9,
}


def asked(profile: ProviderProfile, target: Target, kind: JobKind, *, stream: bool) -> Any:
    request: dict[str, Any] = {"model": target.model, **REQUEST}
    if kind is JobKind.RESPONSES:
        request = {"model": target.model, "input": "hi"}
    return a_call(profile, target, body=orjson.dumps(request), stream=stream, include_usage=True)


def twisted(node: Any) -> Iterator[Any]:
    """The document with something odd at each of its places, one at a time."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from ({**node, name: odd} for odd in twisted(value))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from ([*node[:at], odd, *node[at + 1 :]] for odd in twisted(value))
    yield from ODD


@pytest.mark.parametrize(("profile", "target", "name", "kind"), PROVIDERS, ids=str)
def test_an_odd_answer_is_read_or_refused(
    profile: ProviderProfile, target: Target, name: str, kind: JobKind
) -> None:
    codec, call = profile.codec(kind), asked(profile, target, kind, stream=False)

    for document in twisted(orjson.loads(golden(f"{name}.json"))):
        try:
            codec.decode(orjson.dumps(document), call)
        except ProviderError:
            continue
        except Exception as exc:
            raise AssertionError(f"{exc!r} over {document}") from exc


@pytest.mark.parametrize(("profile", "target", "name", "kind"), STREAMS, ids=str)
def test_an_odd_stream_is_read_or_refused(
    profile: ProviderProfile, target: Target, name: str, kind: JobKind
) -> None:
    codec, call = profile.codec(kind), asked(profile, target, kind, stream=True)
    *before, done = events(golden(f"{name}.sse"))
    for at, event in enumerate(before):
        for document in twisted(orjson.loads(event.data)):
            odd = SseEvent(event.event, orjson.dumps(document))
            told = [*before[:at], odd, *before[at + 1 :], done]
            follow(codec.open_stream(call), told, document, shown=kind is JobKind.CHAT)


@pytest.mark.parametrize("name", ["text", "tools"])
def test_an_odd_answer_told_as_a_stream_is_read_or_refused(name: str) -> None:
    call = asked(OPENAI, GPT, JobKind.CHAT, stream=True)
    for document in twisted(orjson.loads(golden(f"openai/{name}.json"))):
        told = [SseEvent(data=orjson.dumps(document))]
        follow(WholeAnswer(openai_chat, call), told, document, shown=True)


def follow(stream: StreamDecoder, told: list[SseEvent], document: object, *, shown: bool) -> None:
    """To its end, or to where it is refused. `shown`: on the routes that read its chunks, too."""
    try:
        for chunk in [*(chunk for event in told for chunk in stream.feed(event)), *stream.end()]:
            for form in (UNIFIED, INFERENCE) if shown else ():
                form.render(chunk)
    except ProviderError:
        return
    except Exception as exc:
        raise AssertionError(f"{exc!r} over {document}") from exc
