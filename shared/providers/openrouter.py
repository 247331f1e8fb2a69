"""OpenRouter: many vendors' models behind one API. Who calls is told in headers, for its rankings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.providers.dialects import languages
from shared.providers.header_text import header_text
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile


def _shape(request: dict[str, Any]) -> Mapping[str, str]:
    headers = {}
    if (url := request.pop("site_url", None)) is not None:
        headers["http-referer"] = header_text(url, "site_url")
    if (name := request.pop("app_name", None)) is not None:
        # The second is the older spelling, which self-hosted relays still read.
        headers["x-openrouter-title"] = headers["x-title"] = header_text(name, "app_name")
    return headers


PROFILE: Final = ProviderProfile(
    id="openrouter",
    name="OpenRouter",
    base_url="https://openrouter.ai/api/v1",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=CHAT_MODEL
    | {
        Capability.VISION,
        Capability.REASONING,
        Capability.EFFORT,
        Capability.COMPLETION,
        Capability.EMBEDDINGS,
        Capability.RERANK,
    },
    shape=_shape,
    shapes=frozenset({"site_url", "app_name"}),
    key_variables=("OPENROUTER_API_KEY",),
    base_url_variable="OPENROUTER_BASE_URL",
    docs="https://openrouter.ai/docs/api-reference",
)
