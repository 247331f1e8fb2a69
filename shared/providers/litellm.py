"""A LiteLLM proxy: the operator's own server, reached by HTTP like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.providers.dialects import languages
from shared.providers.profile import Bearer, Capability, ProviderProfile


def _shape(request: dict[str, Any]) -> Mapping[str, str]:
    """`cache: true | false` in the words of its cache controls; an object passes as it is."""
    cache = request.get("cache")
    if cache is True:
        request["cache"] = {"use-cache": True}
    elif cache is False:
        request["cache"] = {"no-cache": True, "no-store": True}
    return {}


PROFILE: Final = ProviderProfile(
    id="litellm",
    name="LiteLLM",
    base_url="",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=frozenset(Capability) - {Capability.SUMMARIZATION},
    renames={"fallback_models": "fallbacks"},
    shape=_shape,
    shapes=frozenset({"cache"}),
    credential_required=False,
    self_hosted=True,
    key_variables=("LITELLM_API_KEY",),
    base_url_variable="LITELLM_BASE_URL",
    docs="https://docs.litellm.ai/docs/proxy/user_keys",
)
