"""What NVIDIA NIM says in its own way: rankings as logits, embeddings of two kinds of text.

docs.nvidia.com/nim/nemo-retriever (text-reranking, text-embedding), read 2026-11.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.providers.dialect import Answer, Call, ProviderRequest, StreamDecoder
from shared.providers.dialects.json_answer import invalid, read_object
from shared.providers.dialects.openai_chat import fit, parse_request
from shared.providers.dialects.openai_embeddings import PATH, OpenAiEmbeddings, read_tokens
from shared.providers.dialects.rerank import ranking, sigmoid
from shared.providers.model_path import model_path
from shared.providers.not_carried_over import not_carried_over

_NUMBERS: Final = frozenset({int, float})


class NimRanking:
    """See `Codec`. `{model, query{text}, passages[{text}]}` to `{rankings[{index, logit}]}`."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        query, documents = request.pop("query"), request.pop("documents")
        for name in ("top_n", "max_tokens_per_doc", "priority"):
            request.pop(name, None)
        headers = fit(request, call)
        request["query"] = {"text": query}
        request["passages"] = [{"text": document} for document in documents]
        request.setdefault("truncate", "END")
        hosted = JobKind.RERANK in call.profile.bases
        if hosted:
            # The model as a path is spelled with underscores where its id has dots.
            path = f"/retrieval/{model_path(request['model']).replace('.', '_')}/reranking"
            request["model"] = request["model"].replace("_", ".")
        else:
            path = "/ranking"
        return ProviderRequest(path, orjson.dumps(request), headers)

    def decode(self, body: bytes, call: Call) -> Answer:
        answer = read_object(body, call.profile)
        rankings = answer.get("rankings")
        if type(rankings) is not list:
            raise invalid(call.profile, "a ranking")
        return ranking(
            [self._scored(item, call) for item in rankings], read_tokens(answer.get("usage")), call
        )

    @staticmethod
    def _scored(item: Any, call: Call) -> tuple[Any, float]:
        if type(item) is not dict or type(item.get("logit")) not in _NUMBERS:
            raise invalid(call.profile, "a ranking")
        return item.get("index"), sigmoid(item["logit"])

    def open_stream(self, call: Call) -> StreamDecoder:
        raise not_carried_over("stream", "rankings are not streamed.")


class NimEmbeddings(OpenAiEmbeddings):
    """OpenAI's, and `input_type`: these models embed questions and passages apart. A question by default."""

    def encode(self, call: Call) -> ProviderRequest:
        request = parse_request(call.body)
        request.setdefault("input_type", "query")
        # Base64 is not offered by all models: it is made here of the numbers.
        request["encoding_format"] = "float"
        headers = fit(request, call)
        return ProviderRequest(PATH, orjson.dumps(request), headers)


nim_ranking: Final = NimRanking()
nim_embeddings: Final = NimEmbeddings()
