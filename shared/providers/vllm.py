"""vLLM: the operator's own server, so its address and its models are theirs to name.

A key is optional: `--api-key` guards the /v1 paths only when it was given.
`priority` is left in: vLLM refuses it unless priority scheduling is on, which only the caller can know.
"""

from __future__ import annotations

from typing import Final

from shared.providers.dialects import languages
from shared.providers.profile import Bearer, Capability, ProviderProfile

PROFILE: Final = ProviderProfile(
    id="vllm",
    name="vLLM",
    base_url="",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=frozenset(Capability) - {Capability.SUMMARIZATION},
    credential_required=False,
    self_hosted=True,
    key_variables=("VLLM_API_KEY",),
    base_url_variable="VLLM_BASE_URL",
    docs="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
)
