"""Endpoints that do not speak OpenAI's language, from their entry in the file to what is sent and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.domain.usage import Usage
from shared.errors import (
    InvalidRequest,
    ProviderAnswerInvalid,
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.providers import refusals
from shared.providers.credentials import Credentials
from shared.providers.custom import ProvidersFileInvalid
from shared.providers.dialect import Call
from shared.providers.dialects.http_json import point
from shared.providers.dialects.prompt_templates import TemplateName, render
from shared.providers.profile import ProviderProfile
from shared.providers.registry import Registry
from shared.providers.sse_reader import SseEvent
from shared.providers.tokens import prompt_tokens
from shared.settings import Settings

HTTP = """
[[endpoint]]
id = "lab"
form = "http"
base_url = "https://lab.example"
path = "/run/predict"
answer = "/data/0"
"""
REQUEST = 'request = { data = ["{prompt}", "{max_tokens}"], t = "{temperature}", note = "a {prompt}" }\n'
TGI = '[[endpoint]]\nid = "lab"\nform = "tgi"\nbase_url = "https://lab.example"\n'
AWS = """
[[endpoint]]
id = "lab"
form = "sagemaker"
region = "eu-west-1"
endpoint_name = "tuned-7b"
access_key_env = "LAB_ID"
secret_key_env = "LAB_SECRET"
"""


def registry(folder: Path, text: str) -> Registry:
    return Registry.from_settings(settings(folder, text))


def settings(folder: Path, text: str) -> Settings:
    path = folder / "providers.toml"
    path.write_text(text)
    return Settings(_env_file=None, providers_file=path)


def a_call(profile: ProviderProfile, *, stream: bool = False, **request: Any) -> Call:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **request}
    return Call(orjson.dumps(document), Target(profile.id, "m"), profile, stream=stream)


def sent(profile: ProviderProfile, **request: Any) -> tuple[str, Any]:
    encoded = profile.codec(JobKind.CHAT).encode(a_call(profile, **request))
    return encoded.path, orjson.loads(encoded.body)


@pytest.mark.parametrize("text", [HTTP + REQUEST, TGI, AWS], ids=["http", "tgi", "sagemaker"])
def test_all_that_can_be_said_as_a_chat_is_served(tmp_path: Path, text: str) -> None:
    lab = registry(tmp_path, text).get("lab")

    assert {kind for kind in JobKind if lab.serves(kind)} == {
        JobKind.CHAT,
        JobKind.MESSAGES,
        JobKind.RESPONSES,
        JobKind.COMPLETION,
        JobKind.SUMMARIZATION,
    }


def test_a_template_takes_whole_strings_and_nothing_inside_one(tmp_path: Path) -> None:
    lab = registry(tmp_path, HTTP + REQUEST).get("lab")

    assert sent(lab) == ("/run/predict", {"data": ["hi", None], "note": "a {prompt}"})
    assert sent(lab, max_tokens=5, temperature=0)[1] == {"data": ["hi", 5], "t": 0, "note": "a {prompt}"}


def test_what_text_alone_cannot_say_is_refused_by_name(tmp_path: Path) -> None:
    for text in (HTTP + REQUEST, TGI):
        lab = registry(tmp_path, text).get("lab")
        with pytest.raises(InvalidRequest) as caught:
            sent(lab, tools=[{"type": "function"}])
        assert caught.value.param == "tools"
        with pytest.raises(InvalidRequest) as caught:
            sent(lab, messages=[{"role": "user", "content": [{"type": "image_url"}]}])
        assert caught.value.param == "messages.0.content"


@pytest.mark.parametrize("reason", [b'"out of memory"', b'{"message":"out of memory"}', b"true", b"[1]"])
def test_an_answer_that_says_why_it_is_none_is_an_error(tmp_path: Path, reason: bytes) -> None:
    lab = registry(tmp_path, HTTP + REQUEST + 'error = "/problem"').get("lab")
    codec = lab.codec(JobKind.CHAT)

    with pytest.raises(ProviderUnavailable) as caught:
        codec.decode(b'{"data":["half"],"problem":%b}' % reason, a_call(lab))

    assert "memory" not in str(caught.value)
    for fine in (b"null", b'""', b"false"):
        answer = codec.decode(b'{"data":["whole"],"problem":%b}' % fine, a_call(lab))
        assert b"whole" in answer.body


def test_an_answer_without_its_text_is_invalid_and_an_error_is_one(tmp_path: Path) -> None:
    lab = registry(tmp_path, HTTP + REQUEST).get("lab")
    codec = lab.codec(JobKind.CHAT)

    with pytest.raises(ProviderAnswerInvalid, match="/data/0"):
        codec.decode(b'{"data":[]}', a_call(lab))
    with pytest.raises(ProviderAnswerInvalid):
        codec.decode(b"<html>", a_call(lab))
    with pytest.raises(ProviderUnavailable):
        codec.decode(b'{"error":"out of memory"}', a_call(lab))


def test_a_pointer_is_the_one_of_rfc_6901() -> None:
    document = {"a/b": {"m~n": [{"": 7}]}}

    assert point(document, "/a~1b/m~0n/0/") == 7
    assert point(document, "") is document
    for nowhere in ("/x", "/a~1b/m~0n/1", "/a~1b/m~0n/-1", "/a~1b/m~0n/0//y"):
        with pytest.raises(LookupError):
            point(document, nowhere)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "System: be kind\n\nUser: hi\n\nAssistant: yes?\n\nUser: go\n\nAssistant:"),
        (
            "chatml",
            "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\nyes?<|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<|start_header_id|>system<|end_header_id|>\n\nbe kind<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nyes?<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\ngo<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "[INST] be kind\n\nhi [/INST] yes?</s>[INST] go [/INST]"),
    ],
)
def test_a_conversation_is_rendered_as_its_model_was_trained(template: TemplateName, text: str) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "go"},
    ]

    assert render(template, messages) == text


def test_tgi_gets_its_own_names_and_no_value_it_refuses(tmp_path: Path) -> None:
    lab = registry(tmp_path, TGI).get("lab")

    path, body = sent(lab, max_completion_tokens=9, temperature=0, top_p=1, stop="x", seed=3)

    assert path == "/generate"
    assert body == {
        "inputs": "hi",
        "parameters": {
            "details": True,
            "return_full_text": False,
            "max_new_tokens": 9,
            "stop": ["x"],
            "seed": 3,
        },
    }
    assert sent(lab, stream=True)[0] == "/generate_stream"


def test_tgi_usage_is_an_estimate_where_it_did_not_count_the_input(tmp_path: Path) -> None:
    lab = registry(tmp_path, TGI).get("lab")
    body = b'{"generated_text":"yo","details":{"finish_reason":"length","generated_tokens":2,"prefill":[]}}'

    answer = lab.codec(JobKind.CHAT).decode(body, a_call(lab))

    assert answer.finish_reason == "length"
    estimate = prompt_tokens(JobKind.CHAT, orjson.loads(a_call(lab).body), "m")
    assert answer.usage == Usage(estimate, 2, estimated=True)
    assert estimate > 0


def test_an_error_inside_a_tgi_stream_ends_it(tmp_path: Path) -> None:
    lab = registry(tmp_path, TGI).get("lab")
    decoder = lab.codec(JobKind.CHAT).open_stream(a_call(lab, stream=True))

    with pytest.raises(ProviderRateLimited):
        decoder.feed(SseEvent(data=b'{"error":"busy","error_type":"overloaded"}'))
    with pytest.raises(ProviderAnswerInvalid):
        decoder.feed(SseEvent(data=b"[1]"))


def test_an_endpoint_of_sagemaker_is_found_and_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_ID", "AKIDEXAMPLE\n")
    monkeypatch.setenv("LAB_SECRET", "canary")
    given = settings(tmp_path, AWS)
    known = Registry.from_settings(given)
    lab, target = known.get("lab"), Target("lab", "m")
    credentials = Credentials.from_settings(given, known)

    path, _ = sent(lab)
    sign = credentials.signing(target, lab)

    assert lab.url(path) == (
        "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/tuned-7b/invocations"
    )
    assert credentials.headers(target, lab) == {}
    assert sign is not None
    assert "/eu-west-1/sagemaker/aws4_request" in sign(lab.url(path), b"{}")["authorization"]
    assert known.configured() == ["lab"]


def test_half_a_key_of_aws_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_ID", "AKIDEXAMPLE")
    monkeypatch.delenv("LAB_SECRET", raising=False)

    assert registry(tmp_path, AWS).configured() == []


@pytest.mark.parametrize(
    ("status", "body", "kind", "answered"),
    [
        (400, {"Message": "Rate exceeded", "Code": "ThrottlingException"}, ProviderRateLimited, 429),
        (400, {"Message": "bad", "Code": "ValidationError"}, ProviderRejected, 400),
        (424, {"Message": "m", "ErrorCode": "E", "OriginalStatusCode": 422}, ProviderRejected, 422),
        (424, {"Message": "m", "Code": "ModelError"}, ProviderUnavailable, 502),
        (424, {"error": "failed", "error_type": "generation"}, ProviderUnavailable, 502),
        (503, {"Message": "m", "Code": "ServiceUnavailable"}, ProviderUnavailable, 503),
        (403, {"Message": "m", "Code": "AccessDeniedException"}, ProviderError, 502),
        (422, {"error": "too long", "error_type": "validation"}, ProviderRejected, 422),
    ],
)
def test_what_these_servers_refuse_means_what_it_means(
    tmp_path: Path, status: int, body: dict[str, Any], kind: type[ProviderError], answered: int
) -> None:
    error = refusals.from_http(status, {}, orjson.dumps(body), profile=registry(tmp_path, TGI).get("lab"))

    assert isinstance(error, kind)
    assert error.status == answered


ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    ("status", "kind_of_error", "body", "kind", "answered"),
    [
        (400, "ThrottlingException:http://x/", {"message": None}, ProviderRateLimited, 429),
        (400, "aws.sagemaker#ThrottlingException", {}, ProviderRateLimited, 429),
        (429, "ModelNotReadyException", {"Message": "m"}, ProviderUnavailable, 503),
        (400, "ExpiredTokenException", {"message": "m"}, ProviderCredentialRefused, 502),
        (403, "AccessDeniedException", {"message": "m"}, ProviderCredentialRefused, 502),
        (400, "ValidationError", {"message": f"Endpoint x of {ACCOUNT} not found."}, ProviderRejected, 400),
        (503, "ServiceUnavailable", {"message": None}, ProviderUnavailable, 503),
        (424, "ModelError", {"Message": ACCOUNT, "OriginalStatusCode": 500}, ProviderUnavailable, 502),
        (424, "ModelError", {"Message": ACCOUNT, "OriginalMessage": 7}, ProviderUnavailable, 502),
    ],
)
def test_aws_names_its_errors_in_a_header_and_nothing_of_its_own_is_passed_on(
    tmp_path: Path,
    status: int,
    kind_of_error: str,
    body: dict[str, Any],
    kind: type[ProviderError],
    answered: int,
) -> None:
    headers = {"X-Amzn-ErrorType": kind_of_error}

    error = refusals.from_http(
        status, headers, orjson.dumps(body), profile=registry(tmp_path, AWS).get("lab")
    )

    assert type(error) is kind
    assert (error.status, error.provider_status) == (answered, status)
    assert ACCOUNT not in str(error)


def test_what_the_model_behind_sagemaker_said_is_passed_on(tmp_path: Path) -> None:
    said = {"error": {"message": "too many tokens", "code": "context_length_exceeded", "param": "messages"}}
    body = {"Message": ACCOUNT, "OriginalMessage": orjson.dumps(said).decode(), "OriginalStatusCode": 400}

    error = refusals.from_http(
        424,
        {"x-amzn-errortype": "ModelError"},
        orjson.dumps(body),
        profile=registry(tmp_path, AWS).get("lab"),
    )

    assert isinstance(error, ProviderRejected)
    assert (error.message, error.code, error.param) == (
        "too many tokens",
        "context_length_exceeded",
        "messages",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HTTP, "endpoint 'lab', request: Field required"),
        (HTTP + 'request = { data = ["x"] }', "endpoint 'lab', request: Value error, must have"),
        (HTTP + 'request = { at = 2026-01-01, p = "{prompt}" }', "endpoint 'lab', request: Value error"),
        (HTTP.replace("/data/0", "data") + REQUEST, "endpoint 'lab', answer: String should match"),
        (HTTP.replace("/run", "run") + REQUEST, "endpoint 'lab', path: String should match"),
        (TGI + 'template = "gpt"', "endpoint 'lab', template: Input should be"),
        (
            TGI + 'headers = { Authorization = "s3cret" }',
            "endpoint 'lab', headers: Value error, must not",
        ),
        (
            TGI + 'headers = { Accept-Encoding = "s3cret" }',
            "endpoint 'lab', headers: Value error, must not set accept-encoding",
        ),
        (HTTP + REQUEST + 'error = "error"', "endpoint 'lab', error: String should match"),
        (TGI + 'headers = { "x y" = "s3cret" }', "endpoint 'lab', headers: Value error, must be"),
        (AWS.replace("eu-west-1", "a/b"), "endpoint 'lab', region: String should match"),
        (AWS + 'api_key = "s3cret"', "endpoint 'lab', api_key: Extra inputs"),
        (TGI.replace('"tgi"', '"gopher"'), "endpoint 'lab', form: Value error, must be one of"),
        ('[[preset]]\nname = "p"', "preset 'p', model: Field required"),
        ('[[preset]]\nname = "p"\nmodel = "lab/p"', "preset 'p': Value error, name must differ"),
        ('[[preset]]\nname = "p"\nmodel = "m"\ndefaults = { stream = true }', "preset 'p', defaults"),
        ('[[preset]]\nname = "p"\nmodel = "m"\n' * 2, "preset 'p': this name is used twice"),
    ],
)
def test_a_wrong_entry_is_named_by_its_field_and_shows_no_secret(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ProvidersFileInvalid) as caught:
        registry(tmp_path, text)

    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_tool_calls_of_a_whole_answer_are_streamed_with_their_places(tmp_path: Path) -> None:
    lab = registry(tmp_path, AWS).get("lab")
    function = {"name": "f", "arguments": "{}"}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": function}, 3]}
    body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    decoder = lab.codec(JobKind.CHAT).open_stream(a_call(lab))

    said, ended = map(orjson.loads, decoder.feed(SseEvent(data=orjson.dumps(body))))

    assert said["object"] == "chat.completion.chunk"
    assert said["choices"][0]["delta"]["tool_calls"] == [{"index": 0, "id": "a", "function": function}]
    assert ended["choices"][0]["finish_reason"] == decoder.finish_reason == "tool_calls"
    assert decoder.finished
