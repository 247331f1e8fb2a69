"""DeepSeek.

While the model thinks, plain answers begin with empty lines and streams with comments; neither
is an answer. Continuing a prompt lives below /beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.domain.job import JobKind
from shared.providers.dialects import languages
from shared.providers.not_carried_over import not_carried_over
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile


def _shape(request: dict[str, Any]) -> Mapping[str, str]:
    response_format = request.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        raise not_carried_over("response_format", "DeepSeek takes text and json_object only.")
    return {}


PROFILE: Final = ProviderProfile(
    id="deepseek",
    name="DeepSeek",
    base_url="https://api.deepseek.com",
    bases={JobKind.COMPLETION: "https://api.deepseek.com/beta"},
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=(CHAT_MODEL - {Capability.STRUCTURED_OUTPUT})
    | {Capability.REASONING, Capability.COMPLETION},
    renames={"max_completion_tokens": "max_tokens"},
    drops=frozenset({"parallel_tool_calls", "seed", "store", "metadata", "user", "service_tier"}),
    refuses=frozenset({"n", "logit_bias", "audio", "modalities"}),
    shape=_shape,
    shapes=frozenset({"response_format"}),
    key_variables=("DEEPSEEK_API_KEY",),
    base_url_variable="DEEPSEEK_BASE_URL",
    docs="https://api-docs.deepseek.com",
)
