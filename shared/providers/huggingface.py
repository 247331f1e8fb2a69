"""Hugging Face: its router for chat, its own inference for tasks.

deepseek-ai/DeepSeek-R1             whichever of its partners is fastest
deepseek-ai/DeepSeek-R1:together    that partner
together/deepseek-ai/DeepSeek-R1    the same, as older callers write it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.domain.job import JobKind
from shared.providers.dialects import languages
from shared.providers.dialects.hf_tasks import feature_extraction, summarization
from shared.providers.header_text import header_text
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile

_ROUTER: Final = "https://router.huggingface.co"


def model_name(name: str) -> str:
    """Three segments are a partner before a repository; the router wants it behind."""
    partner, _, repository = name.partition("/")
    return f"{repository}:{partner}" if "/" in repository and ":" not in repository else name


def shape(request: dict[str, Any]) -> Mapping[str, str]:
    """Options of the inference API are headers, under names of their own."""
    headers = {}
    for option in ("use_cache", "wait_for_model"):
        if (value := request.pop(option, None)) is not None:
            headers[f"x-{option.replace('_', '-')}"] = "1" if value is True else "0"
    if (payer := request.pop("bill_to", None)) is not None:
        headers["x-hf-bill-to"] = header_text(payer, "bill_to")
    return headers


PROFILE: Final = ProviderProfile(
    id="huggingface",
    name="Hugging Face",
    base_url=f"{_ROUTER}/v1",
    bases={JobKind.EMBEDDINGS: _ROUTER, JobKind.SUMMARIZATION: _ROUTER},
    auth=Bearer(),
    dialect=languages.OPENAI,
    codecs={JobKind.EMBEDDINGS: feature_extraction, JobKind.SUMMARIZATION: summarization},
    capabilities=CHAT_MODEL
    | {Capability.VISION, Capability.REASONING, Capability.EMBEDDINGS, Capability.SUMMARIZATION},
    shape=shape,
    shapes=frozenset({"use_cache", "wait_for_model", "bill_to"}),
    model_name=model_name,
    key_variables=("HF_TOKEN", "HUGGINGFACE_API_KEY"),
    base_url_variable="HUGGINGFACE_BASE_URL",
    docs="https://huggingface.co/docs/inference-providers",
)
