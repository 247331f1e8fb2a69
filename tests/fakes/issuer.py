"""A token issuer: signs with keys of its own, and serves the public halves over a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.settings import IssuerSettings

AUDIENCE: Final = "headrace.example.com"
NAME: Final = "https://issuer.example.com/"


def private_key(algorithm: str) -> Any:
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_jwk(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    algorithms = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }
    kind = next(kind for private, kind in algorithms.items() if isinstance(key, private))
    jwk: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]  # each of these kinds has it
    jwk.pop("key_ops", None)
    return {**jwk, "kid": key_id, "use": "sig", **more}


@dataclass
class FakeIssuer:
    """`keys`: what it serves. `answer`: in place of these."""

    port: int = 0
    keys: list[dict[str, Any]] = field(default_factory=list)
    answer: bytes | None = None
    fetched: int = 0
    signing: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    def settings(self, **more: Any) -> IssuerSettings:
        fields = {"issuer": NAME, "jwks_url": self.url, "audience": AUDIENCE, "account": "acme", **more}
        return IssuerSettings.model_validate(fields)

    def add_key(self, key_id: str, algorithm: str = "RS256", **more: Any) -> Any:
        key = private_key(algorithm)
        self.signing[key_id] = key
        self.keys.append(public_jwk(key, key_id, **more))
        return key

    def token(
        self,
        now: datetime,
        *,
        key_id: str = "one",
        algorithm: str = "RS256",
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """`claims`: those that are None are left out."""
        moment = int(now.timestamp())
        payload = {
            "iss": NAME,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": moment,
            "exp": moment + 600,
            **claims,
        }
        payload = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(
            payload, self.signing[key_id], algorithm, headers={"kid": key_id, **(headers or {})}
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetched += 1
            body = orjson.dumps({"keys": self.keys})
            whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            writer.write(whole if self.answer is None else self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def running_issuer() -> AsyncIterator[FakeIssuer]:
    """With one RSA key, called `one`."""
    issuer = FakeIssuer()
    issuer.add_key("one")
    server = await asyncio.start_server(issuer.serve, "127.0.0.1")
    issuer.port = server.sockets[0].getsockname()[1]
    async with server:
        yield issuer
