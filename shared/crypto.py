"""Sealed secrets: whoever has the public half of the master key can seal, its holder alone can open.

    record   AES-256-GCM under a data key of its own, bound to whose record and which field it is
    data key wrapped for the master key: X25519 with an ephemeral key, HKDF-SHA256, AES-256-GCM

    byte 0   format      1 ..  8  id of the master key    9 .. 40  ephemeral public key
    41 .. 52 nonce      53 .. 100 the wrapped data key  101 .. 112 nonce   113 ..   ciphertext

The api seals what callers hand in and cannot open it again; workers open. A record that was
copied into another account, row or field does not open. A new master key takes a new wrap
of the data key, not the secret (`rewrap`). Random nonces are safe: each data key seals once.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORMAT: Final = b"\x01"
_ID_BYTES: Final = 8
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD: Final = 1 + _ID_BYTES + _KEY_BYTES + _NONCE_BYTES + _KEY_BYTES + _TAG_BYTES
"""All before the record's own nonce: what a rewrap replaces."""
_PRIVATE: Final = "hmk_"
_PUBLIC: Final = "hmp_"


class CannotOpen(Exception):
    """Sealed for another master key, or not what it says it is. Never says anything of the secret."""


class MasterKeyMalformed(ValueError):
    """The text is no master key. Does not repeat it."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a sealed secret belongs to, and is worthless without."""

    account: str
    record: str
    field: str

    def to_bytes(self) -> bytes:
        parts = (b"headrace", self.account.encode(), self.record.encode(), self.field.encode())
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def new_master_key() -> str:
    return _PRIVATE + _text(os.urandom(_KEY_BYTES))


class Sealer:
    """The public half."""

    def __init__(self, public: bytes) -> None:
        self._public = X25519PublicKey.from_public_bytes(public)
        self._raw = public
        self.master_key_id = _key_id(public)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Raises MasterKeyMalformed."""
        return cls(_bytes(text, _PUBLIC))

    @property
    def text(self) -> str:
        return _PUBLIC + _text(self._raw)

    def seal(self, secret: bytes, binding: Binding) -> bytes:
        data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        return (
            self.wrap(data_key, binding) + nonce + AESGCM(data_key).encrypt(nonce, secret, binding.to_bytes())
        )

    def wrap(self, data_key: bytes, binding: Binding) -> bytes:
        """The head of a sealed record."""
        ephemeral = X25519PrivateKey.generate()
        public, nonce = ephemeral.public_key().public_bytes_raw(), os.urandom(_NONCE_BYTES)
        head = _FORMAT + bytes.fromhex(self.master_key_id) + public
        key = _wrapping_key(ephemeral.exchange(self._public), public, self._raw)
        return head + nonce + AESGCM(key).encrypt(nonce, data_key, head + binding.to_bytes())


class Opener:
    """The master key, and the one before while something is still sealed for it."""

    def __init__(self, *private: bytes) -> None:
        keys = [X25519PrivateKey.from_private_bytes(one) for one in private]
        self._keys = {_key_id(one.public_key().public_bytes_raw()): one for one in keys}
        self.sealer = Sealer(keys[0].public_key().public_bytes_raw())

    @classmethod
    def from_text(cls, *texts: str) -> Self:
        """The newest first. Raises MasterKeyMalformed."""
        return cls(*(_bytes(text, _PRIVATE) for text in texts))

    def open(self, sealed: bytes, binding: Binding) -> bytes:
        """Raises CannotOpen."""
        data_key = self._unwrap(sealed, binding)
        nonce, ciphertext = sealed[_HEAD : _HEAD + _NONCE_BYTES], sealed[_HEAD + _NONCE_BYTES :]
        try:
            return AESGCM(data_key).decrypt(nonce, ciphertext, binding.to_bytes())
        except (InvalidTag, ValueError) as exc:
            raise CannotOpen("a sealed secret was changed, or belongs elsewhere") from exc

    def rewrap(self, sealed: bytes, binding: Binding) -> bytes:
        """The same record for the newest master key. Raises CannotOpen."""
        return self.sealer.wrap(self._unwrap(sealed, binding), binding) + sealed[_HEAD:]

    def _unwrap(self, sealed: bytes, binding: Binding) -> bytes:
        if sealed[:1] != _FORMAT or len(sealed) < _HEAD + _NONCE_BYTES + _TAG_BYTES:
            raise CannotOpen("this is no sealed secret")
        private = self._keys.get(sealed[1 : 1 + _ID_BYTES].hex())
        if private is None:
            raise CannotOpen("it was sealed for another master key")
        at = 1 + _ID_BYTES
        head, public = sealed[: at + _KEY_BYTES], sealed[at : at + _KEY_BYTES]
        nonce, wrapped = (
            sealed[at + _KEY_BYTES :][:_NONCE_BYTES],
            sealed[at + _KEY_BYTES + _NONCE_BYTES : _HEAD],
        )
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
            key = _wrapping_key(shared, public, private.public_key().public_bytes_raw())
            return AESGCM(key).decrypt(nonce, wrapped, head + binding.to_bytes())
        except (InvalidTag, ValueError) as exc:
            raise CannotOpen("a sealed secret was changed, or belongs elsewhere") from exc


def _wrapping_key(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    info = b"headrace wrap 1" + ephemeral + recipient
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(shared)


def _key_id(public: bytes) -> str:
    return hashlib.sha256(b"headrace master key id\n" + public).hexdigest()[: 2 * _ID_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str, prefix: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text.removeprefix(prefix) + "=")
    except ValueError:
        raw = b""
    if not text.startswith(prefix) or len(raw) != _KEY_BYTES:
        raise MasterKeyMalformed(f"a master key begins with {prefix} and holds {_KEY_BYTES} bytes in base64")
    return raw
