"""The list of models that a provider gives: asked for without a token spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from shared.errors import ProviderAnswerInvalid
from shared.providers import refusals
from shared.providers.catalogue import ListedModel
from shared.providers.credentials import OwnKey
from shared.providers.model_lists import read_list
from shared.providers.profile import ProviderProfile
from shared.settings import ProviderSettings
from workers.call_provider import read_capped
from workers.transport import Transport, headers_for

ANSWER_SECONDS: Final = 10.0
_MAX_LIST_BYTES: Final = 8 * 1024 * 1024
_NO_LIST: Final = frozenset({404, 405, 501})


async def fetch_models(
    transport: Transport,
    profile: ProviderProfile,
    settings: ProviderSettings,
    *,
    credential: str,
    auth_headers: Mapping[str, str],
    own: OwnKey | None = None,
) -> list[ListedModel] | None:
    """None from a provider that answers and keeps no list.

    `auth_headers`: of the session of `credential`, for its life; `own`: a key for this call alone.

    Raises ProviderError, TimeoutError, or one of call_provider.FOREIGN.
    """
    session = transport.session(profile, credential, {**profile.headers, **auth_headers})
    url = profile.url(profile.models_path)
    async with (
        asyncio.timeout(min(ANSWER_SECONDS, settings.first_byte_seconds)),
        session.get(url, allow_redirects=False, headers=headers_for(own, url, profile)) as response,
    ):
        if response.status in _NO_LIST:
            return None
        body = await read_capped(response, _MAX_LIST_BYTES, profile)
        if response.status != 200:
            told = {name.lower(): value for name, value in response.headers.items()}
            whose = refusals.OURS if own is None else refusals.THE_ACCOUNTS
            raise refusals.from_http(response.status, told, body, profile=profile, whose=whose)
    try:
        return read_list(body, profile.id)
    except ValueError as exc:
        raise ProviderAnswerInvalid(f"{profile.name} answered with no list.", provider=profile.id) from exc
