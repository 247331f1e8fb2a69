"""Each configured provider: its address reachable, its key taken. No token is spent.

It is asked for its list of models, as workers do it; one without a list is only reached.
"""

from __future__ import annotations

import asyncio

import aiohttp

from cli.doctor.findings import Finding, fail, ok, skip, warn
from cli.doctor.patient import Patient, network_trouble
from shared.domain.job import Target
from shared.errors import ProviderCredentialRefused, ProviderError, ProviderRateLimited, ProviderUnavailable
from shared.providers.credentials import Credentials
from shared.providers.profile import ProviderProfile
from workers.call_provider import FOREIGN
from workers.fetch_models import fetch_models
from workers.transport import Transport

_CONNECT_SECONDS = 4.0
_ANSWER_SECONDS = 8.0


async def any_configured(patient: Patient) -> Finding:
    found = patient.registry.configured()
    if found:
        return ok(f"Configured here: {', '.join(found)}.")
    if patient.in_production:
        return warn(
            "No provider has a key here. Workers need them; run this where their environment is.",
            fix="Set OPENAI_API_KEY or its like (docs/providers.md) for the workers.",
        )
    return skip("No provider has a key here: `headrace up` answers from a script.")


async def one(patient: Patient, profile: ProviderProfile) -> Finding:
    settings = patient.settings.provider.model_copy(
        update={
            "connect_seconds": min(_CONNECT_SECONDS, patient.settings.provider.connect_seconds),
            "first_byte_seconds": min(_ANSWER_SECONDS, patient.settings.provider.first_byte_seconds),
        }
    )
    transport = Transport(settings)
    target = Target(profile.id, "")
    try:
        headers = Credentials.from_settings(patient.settings, patient.registry).headers(target, profile)
        if not profile.models_path:
            return await _only_reached(transport, profile)
        models = await fetch_models(
            transport, profile, settings, credential=target.credential, auth_headers=headers
        )
    except ProviderCredentialRefused as refused:
        return _refused(refused, profile)
    except ProviderRateLimited:
        return warn(
            f"{profile.name} limits our rate.",
            fix=f"Say what it allows: `limits` of [providers.{profile.id}] in HEADRACE_PROVIDERS_FILE.",
        )
    except ProviderUnavailable as failed:
        return warn(
            f"{profile.name} answers with {failed.provider_status}.",
            fix="Look at the provider's status page; fallbacks help meanwhile (docs/routing.md).",
        )
    except ProviderError as failed:
        told = f" (HTTP {failed.provider_status})" if failed.provider_status else ""
        return fail(
            f"{profile.origin} does not answer as {profile.name} does{told}.",
            fix=f"Correct {_address_of(profile)}.",
        )
    except (TimeoutError, *FOREIGN) as exc:
        return _away(exc, profile)
    finally:
        await transport.close()
    if models is None:
        return ok(f"{profile.origin} answers; it has no list of models, so its key is not proved.")
    return ok(f"{profile.origin} takes the key and lists {len(models)} models.")


async def _only_reached(transport: Transport, profile: ProviderProfile) -> Finding:
    # Without the key: nothing is asked that would need it.
    session = transport.session(profile, "doctor", {})
    async with asyncio.timeout(_ANSWER_SECONDS), session.get(profile.base_url, allow_redirects=False):
        pass
    return ok(f"{profile.origin} answers; it has no list of models, so its key is not proved.")


def _refused(refused: ProviderCredentialRefused, profile: ProviderProfile) -> Finding:
    status = refused.provider_status
    name = " or ".join(profile.key_variables) or f"the key of {profile.id} in HEADRACE_PROVIDERS_FILE"
    if status in {402, 429}:
        return fail(
            f"{profile.name} knows the key, and its account has no credit left (HTTP {status}).",
            fix=f"Add credit at the provider, or set {name} to a key of another account.",
        )
    told = "" if status is None else f" (HTTP {status})"
    return fail(
        f"{profile.name} refuses the key{told}.",
        fix=f"Set {name} to a key that the provider shows as active, and restart the workers.",
    )


def _away(error: BaseException, profile: ProviderProfile) -> Finding:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        why = "its name cannot be resolved"
    else:
        why = network_trouble(error) or "what comes back is no HTTP"
    return fail(
        f"{profile.name} at {profile.origin} cannot be reached: {why}.",
        fix=f"Let this machine connect there (names, firewall, TLS), or correct {_address_of(profile)}.",
    )


def _address_of(profile: ProviderProfile) -> str:
    return profile.base_url_variable or f"the base_url of {profile.id} in HEADRACE_PROVIDERS_FILE"
