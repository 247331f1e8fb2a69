"""OpenRouter: many vendors' models behind one API. Who calls is told in headers, for its rankings.

`transforms` is the older name of a plugin: openrouter.ai/docs, message-transforms, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.providers.dialects import languages
from shared.providers.header_text import header_text
from shared.providers.not_carried_over import not_carried_over
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile

_COMPRESSION: Final = "context-compression"


def _shape(request: dict[str, Any]) -> Mapping[str, str]:
    headers = {}
    if (url := request.pop("site_url", None)) is not None:
        headers["http-referer"] = header_text(url, "site_url")
    if (name := request.pop("app_name", None)) is not None:
        # The second is the older spelling, which self-hosted relays still read.
        headers["x-openrouter-title"] = headers["x-title"] = header_text(name, "app_name")
    if (transforms := request.pop("transforms", None)) is not None:
        request["plugins"] = [*_plugins(request), _compression(transforms)]
    return headers


def _plugins(request: dict[str, Any]) -> list[Any]:
    """Those the caller named itself, all but the one that `transforms` stands for."""
    plugins = request.get("plugins") or []
    if not isinstance(plugins, list):
        raise not_carried_over("plugins", "must be a list.")
    return [
        plugin for plugin in plugins if not (isinstance(plugin, dict) and plugin.get("id") == _COMPRESSION)
    ]


def _compression(transforms: object) -> dict[str, Any]:
    if transforms == ["middle-out"]:
        return {"id": _COMPRESSION, "engine": "middle-out"}
    if transforms == []:
        return {"id": _COMPRESSION, "enabled": False}
    raise not_carried_over("transforms", 'must be ["middle-out"], or empty for none.')


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
    shapes=frozenset({"site_url", "app_name", "transforms"}),
    key_variables=("OPENROUTER_API_KEY",),
    base_url_variable="OPENROUTER_BASE_URL",
    docs="https://openrouter.ai/docs/api-reference",
)
