"""Calls to AWS' own services, each signed: see shared.sigv4."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.providers.profile import Signer
from shared.sigv4 import AccessKey, sha256, signed_headers


@dataclass(frozen=True, slots=True)
class SigV4(Signer):
    """The secret: access key id, secret access key and perhaps a session token, a space between them."""

    region: str
    service: str

    def sign(self, secret: str, *, method: str, url: str, body: bytes, now: datetime) -> dict[str, str]:
        return signed_headers(
            AccessKey(*secret.split()[:3]),
            region=self.region,
            service=self.service,
            method=method,
            url=url,
            body_sha256=sha256(body),
            now=now,
        )
