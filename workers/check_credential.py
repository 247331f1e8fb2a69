"""Whether a provider takes a key: it is asked for its models with it.

    200 ──────────────────> valid; unless it says the same to anybody, which proves nothing
    401, 403 ─────────────> not valid
    402, no quota left ───> valid, without access
    429, 5xx, no answer ──> an error: nobody knows

Nothing is asked on the broker's own account, so nothing that happens here paces or opens anything.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final

import orjson

from shared.crypto import candidate_place
from shared.domain.job import CANDIDATE_CREDENTIAL, Job
from shared.errors import InvalidRequest, ProviderCredentialRefused
from shared.providers.catalogue import ListedModel
from shared.providers.credentials import OwnKey
from shared.providers.profile import ProviderProfile, not_served
from shared.settings import ProviderSettings
from workers.call_provider import FOREIGN, map_foreign
from workers.fetch_models import fetch_models
from workers.own_credentials import OwnCredentials
from workers.transport import Transport

_OUT_OF_CREDIT: Final = frozenset({402, 429})
"""Of a refused key: its provider knows it, and serves nobody on it."""


async def check_credential(
    job: Job,
    profile: ProviderProfile,
    *,
    own_credentials: OwnCredentials,
    transport: Transport,
    settings: ProviderSettings,
) -> bytes:
    """The answer of the job. Raises BrokerError where the provider does not say."""
    place = candidate_place(job.account, job.id, profile.id)
    key = own_credentials.open_candidate(_sealed(job), place, profile)
    valid, has_access, models = True, True, list[ListedModel]()
    try:
        found = await _ask(profile, transport, settings, key)
    except ProviderCredentialRefused as refused:
        valid, has_access = refused.provider_status in _OUT_OF_CREDIT, False
    else:
        if found is None:
            raise not_served(profile, job.kind)
        models = found
        if profile.credential_required and await _lists_to_anybody(profile, transport, settings):
            raise _proves_nothing(profile)
    return orjson.dumps({"valid": valid, "has_access": has_access, "models": [model.id for model in models]})


async def _ask(
    profile: ProviderProfile, transport: Transport, settings: ProviderSettings, key: OwnKey | None
) -> list[ListedModel] | None:
    try:
        return await fetch_models(
            transport, profile, settings, credential=CANDIDATE_CREDENTIAL, auth_headers={}, own=key
        )
    except (TimeoutError, *FOREIGN) as exc:
        raise map_foreign(exc, profile) from exc


async def _lists_to_anybody(
    profile: ProviderProfile, transport: Transport, settings: ProviderSettings
) -> bool:
    try:
        return await _ask(profile, transport, settings, None) is not None
    except ProviderCredentialRefused:
        return False


def _sealed(job: Job) -> bytes:
    try:
        return b64decode(orjson.loads(job.body)["sealed"], validate=True)
    except (ValueError, TypeError, KeyError):
        return b""  # which opens nothing


def _proves_nothing(profile: ProviderProfile) -> InvalidRequest:
    error = InvalidRequest(
        f"{profile.name} shows its models to anybody, so they prove no key.", param="provider"
    )
    error.status, error.code = 400, "unsupported_by_provider"
    return error
