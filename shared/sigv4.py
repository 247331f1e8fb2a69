"""AWS Signature Version 4, in headers.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html; tried on the
vectors of the test suite AWS published with it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SAFE: Final = "-_.~"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class AccessKey:
    """`token`: of a session, where the key is a temporary one."""

    id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def signed_headers(
    key: AccessKey,
    *,
    region: str,
    service: str,
    method: str,
    url: str,
    body_sha256: str,
    now: datetime,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers to send: `headers` (by lower-case name) and those of the signature, which covers all.

    The host is covered and not among them: the client writes it itself, in the same way.
    """
    signed = {**(headers or {}), "host": _host(url), "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
    if key.token is not None:
        signed["x-amz-security-token"] = key.token
    if service == "s3":
        signed["x-amz-content-sha256"] = body_sha256
    scope = f"{now:%Y%m%d}/{region}/{service}/aws4_request"
    # All but S3 have what is encoded in a path already encoded once more.
    safe = "/%" + _SAFE if service == "s3" else "/" + _SAFE
    request = canonical_request(method, url, signed, body_sha256, safe=safe)
    to_sign = "\n".join([_ALGORITHM, signed["x-amz-date"], scope, sha256(request.encode())])
    signing_key = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        signing_key = _hmac(signing_key, part)
    signature = _hmac(signing_key, to_sign).hex()
    authorization = (
        f"{_ALGORITHM} Credential={key.id}/{scope}, "
        f"SignedHeaders={';'.join(sorted(signed))}, Signature={signature}"
    )
    del signed["host"]
    return {**signed, "authorization": authorization}


def canonical_request(
    method: str, url: str, headers: Mapping[str, str], body_sha256: str, *, safe: str = "/" + _SAFE
) -> str:
    """`headers` by lower-case name. `safe`: what stays as it is in the path, besides letters and digits."""
    parts = urlsplit(url)
    pairs = [
        (quote(name, safe=_SAFE), quote(value, safe=_SAFE))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return "\n".join(
        [
            method,
            quote(parts.path or "/", safe=safe),
            "&".join(f"{name}={value}" for name, value in sorted(pairs)),
            *(f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers)),
            "",
            ";".join(sorted(headers)),
            body_sha256,
        ]
    )


def sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def _host(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.lower()
    return host.removesuffix(f":{_DEFAULT_PORTS.get(parts.scheme)}")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
