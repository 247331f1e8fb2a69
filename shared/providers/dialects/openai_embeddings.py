"""OpenAI embeddings. Vectors come back in the encoding the caller asked for, whichever the provider speaks.

The official clients ask for base64 (float32, little-endian) when their user says nothing;
several providers only know arrays of numbers.
"""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode, b64encode
from math import isfinite
from typing import Any, Final

import orjson

from shared.domain.usage import Usage
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid, read_object
from shared.providers.dialects.openai_chat import fit, parse_request, read_usage
from shared.providers.not_carried_over import not_carried_over

PATH: Final = "/embeddings"
_FLOAT_BYTES: Final = 4


class OpenAiEmbeddings:
    """See `Codec`."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        headers = fit(request, call)
        return ProviderRequest(PATH, orjson.dumps(request), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = read_object(body, call.profile)
        request = parse_request(call.body)
        data = answer.get("data")
        if type(data) is not list or len(data) != count_inputs(request.get("input")):
            raise _not_embeddings(call)
        vectors: list[Any] = [None] * len(data)
        for position, item in enumerate(data):
            index = item.get("index", position) if type(item) is dict else None
            if type(index) is not int or not 0 <= index < len(data):
                raise _not_embeddings(call)
            vectors[index] = item.get("embedding")
        return embeddings_answer(vectors, read_tokens(answer.get("usage")), request, call, answer)

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "embeddings are not streamed.")


openai_embeddings: Final = OpenAiEmbeddings()


def embeddings_answer(
    vectors: list[Any],
    usage: Usage | None,
    request: dict[str, Any],
    call: Call,
    answer: dict[str, Any] | None = None,
) -> Answer:
    """`vectors`, in the order of the inputs, in OpenAI's form and in the encoding `request` asks for.

    `answer`: what the provider said besides. Raises ProviderAnswerInvalid where a vector is none.
    """
    as_base64 = request.get("encoding_format") == "base64"
    try:
        embeddings = [_to_base64(vector) if as_base64 else _to_floats(vector) for vector in vectors]
    except (ValueError, TypeError, OverflowError, struct.error, binascii.Error) as exc:
        raise _not_embeddings(call) from exc
    said: dict[str, Any] = {"model": call.target.model, **(answer or {})}
    said["object"] = "list"
    said["data"] = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index, embedding in enumerate(embeddings)
    ]
    return Answer(orjson.dumps(said), usage, None)


def count_inputs(value: object) -> int:
    """A string and a list of tokens are one input; a list of either is several."""
    if type(value) is not list:
        return 1
    return 1 if value and type(value[0]) is int else len(value)


def read_tokens(usage: object) -> Usage | None:
    """Tokens of a call that generates nothing: some providers say the total alone."""
    if type(usage) is dict and type(usage.get("prompt_tokens")) is not int:
        usage = {"prompt_tokens": usage.get("total_tokens")}
    return read_usage(usage)


def _to_floats(vector: Any) -> list[float]:
    return list(_unpack(vector)) if type(vector) is str else _checked(vector)


def _to_base64(vector: Any) -> str:
    if type(vector) is str:
        _unpack(vector)
        return vector
    return b64encode(struct.pack(f"<{len(_checked(vector))}f", *vector)).decode("ascii")


def _unpack(encoded: str) -> tuple[float, ...]:
    raw = b64decode(encoded, validate=True)
    numbers = struct.unpack(f"<{len(raw) // _FLOAT_BYTES}f", raw)
    _check_finite(numbers)
    return numbers


def _checked(vector: list[float]) -> list[float]:
    if type(vector) is not list or not set(map(type, vector)) <= {float, int}:
        raise TypeError
    _check_finite(vector)
    return vector


def _check_finite(numbers: list[float] | tuple[float, ...]) -> None:
    # One that is not finite makes the sum so, and summing is the fastest look at all of them.
    if not numbers or not isfinite(sum(numbers)):
        raise ValueError


def _not_embeddings(call: Call) -> Exception:
    return invalid(call.profile, "one vector of finite numbers for each input")
