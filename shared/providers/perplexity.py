"""Perplexity: answers from a search. It calls no tools, and lists no models."""

from __future__ import annotations

from typing import Final

from shared.domain.job import JobKind
from shared.providers.dialects import languages
from shared.providers.dialects.perplexity_embeddings import perplexity_embeddings
from shared.providers.profile import Bearer, Capability, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="perplexity",
    name="Perplexity",
    base_url="https://api.perplexity.ai",
    bases={JobKind.EMBEDDINGS: "https://api.perplexity.ai/v1"},
    auth=Bearer(),
    dialect=languages.OPENAI,
    codecs={JobKind.EMBEDDINGS: perplexity_embeddings},
    capabilities=frozenset(
        {
            Capability.CHAT,
            Capability.STREAM,
            Capability.VISION,
            Capability.STRUCTURED_OUTPUT,
            Capability.REASONING,
            Capability.EFFORT,
            Capability.EMBEDDINGS,
        }
    ),
    renames={"max_completion_tokens": "max_tokens"},
    drops=frozenset({"seed", "store", "metadata", "user", "service_tier", "parallel_tool_calls"}),
    refuses=frozenset({"tools", "n", "logit_bias", "logprobs", "audio", "modalities"}),
    key_variables=("PERPLEXITY_API_KEY",),
    base_url_variable="PERPLEXITY_BASE_URL",
    models_path="",
    docs="https://docs.perplexity.ai/api-reference",
)
