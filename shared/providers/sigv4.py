"""AWS Signature Version 4, in headers.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html; tried on the
vectors of the test suite AWS published with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from shared.providers.profile import Signer

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SAFE: Final = "-_.~"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SigV4(Signer):
    """The secret: access key id, secret access key and perhaps a session token, a space between them."""

    region: str
    service: str

    def sign(self, secret: str, *, method: str, url: str, body: bytes, now: datetime) -> dict[str, str]:
        key_id, key, *token = secret.split()
        headers = {"host": _host(url), "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
        if token:
            headers["x-amz-security-token"] = token[0]
        scope = f"{now:%Y%m%d}/{self.region}/{self.service}/aws4_request"
        request = canonical_request(method, url, headers, body)
        to_sign = "\n".join([_ALGORITHM, headers["x-amz-date"], scope, _sha256(request.encode())])
        signing_key = f"AWS4{key}".encode()
        for part in scope.split("/"):
            signing_key = _hmac(signing_key, part)
        signature = _hmac(signing_key, to_sign).hex()
        authorization = (
            f"{_ALGORITHM} Credential={key_id}/{scope}, "
            f"SignedHeaders={';'.join(sorted(headers))}, Signature={signature}"
        )
        # The client writes the host itself, in the same way.
        del headers["host"]
        return {**headers, "authorization": authorization}


def canonical_request(method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
    """`headers` by lower-case name."""
    parts = urlsplit(url)
    pairs = [
        (quote(name, safe=_SAFE), quote(value, safe=_SAFE))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/" + _SAFE),
            "&".join(f"{name}={value}" for name, value in sorted(pairs)),
            *(f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers)),
            "",
            ";".join(sorted(headers)),
            _sha256(body),
        ]
    )


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.lower()
    return host.removesuffix(f":{_DEFAULT_PORTS.get(parts.scheme)}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
