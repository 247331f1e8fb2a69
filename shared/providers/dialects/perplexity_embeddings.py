"""Embeddings of Perplexity: OpenAI's form, but vectors are base64 of signed bytes, not of floats.

docs.perplexity.ai/api-reference/embeddings-post, read 2026-11: base64_int8 is the default. Their
length carries no meaning: compare them by cosine.
"""

from __future__ import annotations

import binascii
from array import array
from base64 import b64decode
from typing import Any, Final

import orjson

from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid, read_object
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.openai_embeddings import PATH, count_inputs, embeddings_answer, read_tokens
from shared.providers.dialects.texts import texts_of
from shared.providers.not_carried_over import not_carried_over


class PerplexityEmbeddings:
    """See `Codec`."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        texts_of(request, call.profile)
        headers = fit(request, call)
        request["encoding_format"] = "base64_int8"
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
            vectors[index] = _numbers(item.get("embedding"), call)
        return embeddings_answer(vectors, read_tokens(answer.get("usage")), request, call, answer)

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "embeddings are not streamed.")


perplexity_embeddings: Final = PerplexityEmbeddings()


def _numbers(encoded: object, call: Call) -> list[float]:
    try:
        raw = b64decode(encoded, validate=True) if type(encoded) is str else b""
    except (ValueError, binascii.Error) as exc:
        raise _not_embeddings(call) from exc
    return [float(number) for number in array("b", raw)]


def _not_embeddings(call: Call) -> Exception:
    return invalid(call.profile, "one vector of bytes for each input")
