"""The providers' secrets. Only workers build one of these.

A credential is bound to the origins it was configured for, and is never sent to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

from shared.clock import Clock, SystemClock
from shared.domain.job import Target
from shared.errors import ProviderCredentialRefused
from shared.providers.configured_secrets import configured_secrets
from shared.providers.profile import ProviderProfile, Signer
from shared.providers.registry import BUILT_IN, Registry, providers_file
from shared.settings import Settings

DEFAULT: Final = "default"

Sign = Callable[[str, bytes], Mapping[str, str]]
"""Headers that sign one call, from its URL and the bytes of its body."""


@dataclass(frozen=True, slots=True)
class Credential:
    secret: SecretStr
    origins: frozenset[str]


@dataclass(frozen=True, slots=True)
class OwnKey:
    """An account's own key, open: what authenticates one call, and must not outlive it.

    `origins`: the only ones it may be sent to. `sign`: where its provider wants each call signed.
    """

    headers: Mapping[str, str] = field(repr=False)
    origins: frozenset[str]
    sign: Sign | None = field(default=None, repr=False)


def signs_with(secret: str, profile: ProviderProfile, clock: Clock) -> Sign | None:
    """What signs calls at `profile` with `secret`; None where its provider wants no signature."""
    auth = profile.auth
    if not isinstance(auth, Signer):
        return None

    def sign(url: str, body: bytes) -> dict[str, str]:
        return auth.sign(secret, method="POST", url=url, body=body, now=clock.now())

    return sign


class Credentials:
    def __init__(
        self, credentials: Mapping[tuple[str, str], Credential], *, clock: Clock | None = None
    ) -> None:
        """By provider id and credential id. `clock`: a signature carries the time."""
        self._credentials = dict(credentials)
        self._clock = clock or SystemClock()

    @classmethod
    def from_settings(cls, settings: Settings, registry: Registry | None = None) -> Credentials:
        registry = registry or Registry.from_settings(settings)
        secrets = configured_secrets(settings, providers_file(settings), BUILT_IN.values())
        return cls(
            {
                (provider, DEFAULT): Credential(secret, registry.get(provider).origins)
                for provider, secret in secrets.items()
            }
        )

    def resolve(self, target: Target) -> SecretStr | None:
        credential = self._credentials.get((target.provider, target.credential))
        return credential.secret if credential else None

    def headers(self, target: Target, profile: ProviderProfile) -> dict[str, str]:
        """The headers that authenticate a call of `target` at `profile`; none when it needs none.

        Raises ProviderCredentialRefused when a required credential is missing, or belongs elsewhere.
        """
        secret = self._secret(target, profile)
        return {} if secret is None else profile.auth.headers(secret)

    def signing(self, target: Target, profile: ProviderProfile) -> Sign | None:
        """What signs the call of `target`, where its provider wants that. Raises as `headers` does."""
        if not isinstance(profile.auth, Signer):
            return None
        secret = self._secret(target, profile)
        return None if secret is None else signs_with(secret, profile, self._clock)

    def _secret(self, target: Target, profile: ProviderProfile) -> str | None:
        credential = self._credentials.get((target.provider, target.credential))
        if credential is None:
            if profile.credential_required or target.credential != DEFAULT:
                raise ProviderCredentialRefused(
                    f"No key is configured for {profile.name}.", provider=profile.id
                )
            return None
        if not profile.origins <= credential.origins:
            raise ProviderCredentialRefused(
                f"The key of {profile.name} belongs to another address than the one to be called.",
                provider=profile.id,
            )
        return credential.secret.get_secret_value()
