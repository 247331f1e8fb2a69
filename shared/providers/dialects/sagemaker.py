"""A model behind a SageMaker endpoint: another language, at the one path SageMaker has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shared.providers.dialect import Answer, Call, Codec, ProviderRequest, StreamDecoder
from shared.providers.dialects.whole_answer import WholeAnswer


@dataclass(frozen=True, slots=True)
class Invocation:
    """See `Codec`. `inner` is the chat codec of the container's language."""

    inner: Codec
    endpoint_name: str

    def encode(self, call: Call) -> ProviderRequest:
        request = self.inner.encode(replace(call, stream=False))
        return replace(request, path=f"/endpoints/{self.endpoint_name}/invocations")

    def decode(self, body: bytes, call: Call) -> Answer:
        return self.inner.decode(body, call)

    def open_stream(self, call: Call) -> StreamDecoder:
        return WholeAnswer(self.inner, call)
