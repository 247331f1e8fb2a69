"""Every provider's golden bodies, through its own profile and codecs."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from shared.domain.job import JobKind
from shared.errors import (
    InvalidRequest,
    ProviderError,
)
from shared.providers import refusals
from shared.providers.limits import read_limits
from shared.providers.profile import Capability, ProviderProfile
from shared.providers.registry import BUILT_IN
from shared.providers.sse_reader import SseReader
from tests.conformance import goldens

every_provider = pytest.mark.parametrize("profile", BUILT_IN.values(), ids=BUILT_IN)


@every_provider
def test_its_golden_folder_is_complete(profile: ProviderProfile) -> None:
    lacking = goldens.missing(profile)

    assert not lacking, (
        f"Add {', '.join(lacking)} to tests/golden/{profile.id}/: "
        "what each has to be is said in tests/conformance/goldens.py."
    )


@every_provider
def test_its_readme_names_source_and_date(profile: ProviderProfile) -> None:
    text = goldens.read(profile, "README.md").decode()

    assert "2026-" in text
    assert "not recorded" in text


@every_provider
def test_a_stream_says_what_the_plain_answer_says(profile: ProviderProfile) -> None:
    for name in goldens.answers(profile):
        call = goldens.call_of(profile, JobKind.CHAT)

        plain = profile.codec(JobKind.CHAT).decode(goldens.read(profile, f"{name}.json"), call)
        streamed = goldens.streamed_message(profile, goldens.read(profile, f"{name}.sse"))

        usage = streamed.pop("usage")
        assert streamed == goldens.plain_message(plain.body), name
        assert usage == plain.usage == goldens.usage(profile), name


@every_provider
def test_a_stream_is_whole_once_it_says_why_it_ends(profile: ProviderProfile) -> None:
    codec, call = profile.codec(JobKind.CHAT), goldens.call_of(profile, JobKind.CHAT, stream=True)
    for name in goldens.answers(profile):
        reader = SseReader(profile.id)
        *events, last = reader.feed(goldens.read(profile, f"{name}.sse")) + reader.close()
        whole, cut = codec.open_stream(call), codec.open_stream(call)

        for event in events:
            whole.feed(event)
            if not whole.ended:
                cut.feed(event)
        whole.feed(last)
        if whole.finished:
            cut.feed(last)

        assert whole.ended, name
        assert cut.finished == whole.finished
        assert not cut.ended, name


@every_provider
def test_what_was_generated_counts_the_same_plain_and_streamed(profile: ProviderProfile) -> None:
    codec = profile.codec(JobKind.CHAT)
    for name in goldens.answers(profile):
        document = orjson.loads(goldens.read(profile, f"{name}.json"))
        del document["usage"]
        streamed = codec.open_stream(goldens.call_of(profile, JobKind.CHAT, stream=True))
        for event in SseReader(profile.id).feed(goldens.read(profile, f"{name}.sse") + b"\n\n"):
            streamed.feed(event)

        plain = codec.decode(orjson.dumps(document), goldens.call_of(profile, JobKind.CHAT))

        assert plain.usage is None
        # Arguments of a tool that came as text may have spaces that they lack as JSON.
        assert plain.text_chars == pytest.approx(streamed.text_chars, abs=2 if name == "tools" else 0), name


@every_provider
def test_whoever_calls_tools_does_so_in_a_golden_body(profile: ProviderProfile) -> None:
    if Capability.FUNCTION_CALLING not in profile.capabilities:
        assert "tools" not in goldens.answers(profile)
        return
    answer = profile.codec(JobKind.CHAT).decode(
        goldens.read(profile, "tools.json"), goldens.call_of(profile, JobKind.CHAT)
    )

    calls = goldens.plain_message(answer.body)["calls"]
    assert calls
    assert all(isinstance(call["arguments"], dict) and call["id"] for call in calls)


@every_provider
def test_each_error_becomes_the_one_it_means(profile: ProviderProfile) -> None:
    for golden in goldens.errors(profile):
        error = refusals.from_http(golden.status, {}, golden.body, profile=profile)

        assert type(error) is goldens.MEANS[golden.stem], golden.stem
        assert error.provider == profile.id
        assert error.status != 401


def test_a_model_that_loads_says_how_long_to_wait() -> None:
    profile = BUILT_IN["huggingface"]

    error = refusals.from_http(503, {}, goldens.read(profile, "server_error.503.error.json"), profile=profile)

    assert error.retry_after_seconds == 20


@every_provider
def test_an_error_inside_a_stream_is_raised(profile: ProviderProfile) -> None:
    file = goldens.ROOT / profile.id / "error_in_stream.sse"
    stream = file.read_bytes() if file.exists() else b'data: {"error":{"message":"Broken","code":500}}\n\n'

    with pytest.raises(ProviderError):
        goldens.streamed_message(profile, stream)


@every_provider
def test_its_limit_headers_mean_what_they_say(profile: ProviderProfile) -> None:
    golden = orjson.loads(goldens.read(profile, "limits.json"))

    limits = read_limits(golden["headers"], goldens.NOW)

    assert (limits.to_fields() if limits else {}) == golden["means"]


@every_provider
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (JobKind.EMBEDDINGS, "embeddings.json"),
        (JobKind.RERANK, "rerank.json"),
        (JobKind.SUMMARIZATION, "summarization.json"),
    ],
)
def test_answers_of_the_other_kinds_are_read(profile: ProviderProfile, kind: JobKind, file: str) -> None:
    if not (goldens.ROOT / profile.id / file).exists():
        assert not profile.serves(kind) or Capability.SUMMARIZATION not in profile.capabilities
        return
    golden = goldens.read(profile, file)
    body = dict(goldens.BODIES[kind])
    if kind is JobKind.EMBEDDINGS:
        said = orjson.loads(golden)
        body["input"] = ["Hello"] * len(said["data"] if isinstance(said, dict) else said)
    answer = profile.codec(kind).decode(golden, goldens.call_of(profile, kind, body))

    document: dict[str, Any] = orjson.loads(answer.body)
    if kind is JobKind.EMBEDDINGS:
        assert document["object"] == "list"
        assert len(document["data"][0]["embedding"]) == 3
    elif kind is JobKind.RERANK:
        assert [result["index"] for result in document["results"]] == [1, 0]
        assert all(0 <= result["relevance_score"] <= 1 for result in document["results"])
    else:
        assert document["summary"] == "A short text."


WITHOUT_BODIES: Final = {JobKind.COUNT_TOKENS, JobKind.CREDENTIAL_CHECK, JobKind.PROVIDER_BATCH}


@every_provider
@pytest.mark.parametrize("kind", [k for k in JobKind if k not in WITHOUT_BODIES], ids=str)
def test_a_kind_is_served_or_refused_by_name(profile: ProviderProfile, kind: JobKind) -> None:
    if profile.serves(kind):
        request = profile.codec(kind).encode(goldens.call_of(profile, kind))

        assert request.path.startswith("/")
        assert b"golden-model" in request.body or "golden-model" in request.path
        return

    needed = Capability.RERANK if kind is JobKind.RERANK else Capability.EMBEDDINGS
    assert needed not in profile.capabilities
    assert kind in {JobKind.RERANK, JobKind.EMBEDDINGS}


@every_provider
def test_what_it_refuses_is_a_400_that_names_it(profile: ProviderProfile) -> None:
    for name in profile.refuses:
        body = {**goldens.BODIES[JobKind.CHAT], name: [{"type": "x"}]}

        with pytest.raises(InvalidRequest) as refused:
            profile.codec(JobKind.CHAT).encode(goldens.call_of(profile, JobKind.CHAT, body))

        assert (refused.value.status, refused.value.param) == (400, name)
