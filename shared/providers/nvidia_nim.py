"""NVIDIA NIM: hosted by NVIDIA, or the same in containers of the operator's.

Hosted, a ranking lives at an origin of its own, below the model's name; in a container at /ranking. A hosted
call that takes long is answered with 202 and a request id, and its result is then asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.domain.job import JobKind
from shared.providers.dialects import languages
from shared.providers.dialects.nvidia import nim_embeddings, nim_ranking
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile


def _pending(headers: Mapping[str, str]) -> str | None:
    request_id = headers.get("nvcf-reqid", "")
    return f"/status/{request_id}" if request_id.replace("-", "").isalnum() else None


PROFILE: Final = ProviderProfile(
    id="nvidia_nim",
    name="NVIDIA NIM",
    base_url="https://integrate.api.nvidia.com/v1",
    bases={JobKind.RERANK: "https://ai.api.nvidia.com/v1"},
    auth=Bearer(),
    dialect=languages.OPENAI,
    codecs={JobKind.EMBEDDINGS: nim_embeddings, JobKind.RERANK: nim_ranking},
    capabilities=CHAT_MODEL
    | {
        Capability.VISION,
        Capability.REASONING,
        Capability.COMPLETION,
        Capability.EMBEDDINGS,
        Capability.RERANK,
    },
    renames={"max_completion_tokens": "max_tokens"},
    drops=frozenset({"store", "metadata", "service_tier", "parallel_tool_calls"}),
    pending=_pending,
    key_variables=("NVIDIA_NIM_API_KEY",),
    base_url_variable="NVIDIA_NIM_BASE_URL",
    docs="https://docs.api.nvidia.com/nim/reference",
)
