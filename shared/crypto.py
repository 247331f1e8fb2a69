"""Sealed boxes: whoever can seal one need not be able to open it.

    master key   X25519. The public half seals (api); the private half opens (workers).
    data key     random, new for each record; encrypts the secret and is wrapped for the master key.

    format │ master key id │ ephemeral public key │ nonce │ wrapped data key │ nonce │ secret
      1          8                  32               12            48            12     n + 16
           └──────────── the wrap: all that `rewrap` replaces ────────────┘

Both ciphers are AES-256-GCM. What is sealed is bound to its place, so that it opens nowhere else; the wrap
besides to the master key's id. The nonces are random: a key that encrypts once cannot repeat one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORMAT: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_ID_END: Final = len(_FORMAT) + _KEY_ID_BYTES
_EPHEMERAL_END: Final = _ID_END + _KEY_BYTES
_WRAP_NONCE_END: Final = _EPHEMERAL_END + _NONCE_BYTES
_WRAP_END: Final = _WRAP_NONCE_END + _KEY_BYTES + _TAG_BYTES
_SECRET_AT: Final = _WRAP_END + _NONCE_BYTES

PRIVATE_PREFIX: Final = "hrmaster_"
PUBLIC_PREFIX: Final = "hrpublic_"


class MasterKeyInvalid(ValueError):
    """Says what a master key must look like, and nothing of the one it got."""


class CannotOpen(Exception):
    """What is sealed belongs elsewhere, was changed, or was sealed for another master key."""


class MasterKeyMissing(CannotOpen):
    """It was sealed for a master key that is not here."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where what is sealed belongs: it opens nowhere else."""

    account: str
    record: str
    field: str

    def bound(self, *more: bytes) -> bytes:
        """The format first, then each part behind its length, so that no two places read alike."""
        parts = (self.account.encode(), self.record.encode(), self.field.encode(), *more)
        return _FORMAT + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def candidate_place(account: str, job: str, provider: str) -> Place:
    """Of a key that is to be tried by this one job, and is stored nowhere."""
    return Place(account, job, f"candidate {provider}")


def new_master_key() -> tuple[str, str]:
    """Its private half and its public half, as settings hold them."""
    private = X25519PrivateKey.generate()
    return PRIVATE_PREFIX + _text(private.private_bytes_raw()), _public_text(private.public_key())


def public_half(private: str) -> str:
    """Raises MasterKeyInvalid."""
    return _public_text(_private_key(private).public_key())


class Sealer:
    """The public half of a master key. Raises MasterKeyInvalid for what is none."""

    def __init__(self, public: str) -> None:
        self._key = X25519PublicKey.from_public_bytes(_bytes(public, PUBLIC_PREFIX, "public"))
        self._id = _id_of(self._key)

    @property
    def key_id(self) -> str:
        return self._id.hex()

    def seal(self, secret: str, place: Place) -> bytes:
        data_key, nonce = os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        sealed = AESGCM(data_key).encrypt(nonce, secret.encode(), place.bound())
        return self.wrap(data_key, place) + nonce + sealed

    def wrap(self, data_key: bytes, place: Place) -> bytes:
        """All that stands before the secret's own nonce."""
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        key = _wrapping_key(ephemeral.exchange(self._key), public, self._key)
        nonce = os.urandom(_NONCE_BYTES)
        wrapped = AESGCM(key).encrypt(nonce, data_key, place.bound(self._id))
        return _FORMAT + self._id + public + nonce + wrapped


class Opener:
    """The private half of a master key, and of those before it. Raises MasterKeyInvalid for what is none."""

    def __init__(self, private: str, before: Iterable[str] = ()) -> None:
        keys = [_private_key(text) for text in (private, *before)]
        self._keys = {_id_of(key.public_key()): key for key in keys}

    def open(self, sealed: bytes, place: Place) -> str:
        """Raises CannotOpen, which says nothing of the secret."""
        data_key = self._data_key(sealed, place)
        nonce, secret = sealed[_WRAP_END:_SECRET_AT], sealed[_SECRET_AT:]
        try:
            return AESGCM(data_key).decrypt(nonce, secret, place.bound()).decode()
        except (InvalidTag, ValueError):
            raise CannotOpen("What is sealed was changed, or belongs elsewhere.") from None

    def rewrap(self, sealed: bytes, place: Place, sealer: Sealer) -> bytes:
        """The same for the master key of `sealer`: the secret itself is not decrypted. Raises CannotOpen."""
        return sealer.wrap(self._data_key(sealed, place), place) + sealed[_WRAP_END:]

    def _data_key(self, sealed: bytes, place: Place) -> bytes:
        if sealed[:1] != _FORMAT or len(sealed) < _SECRET_AT + _TAG_BYTES:
            raise CannotOpen("What is sealed is in no form that is known here.")
        key_id, public = sealed[1:_ID_END], sealed[_ID_END:_EPHEMERAL_END]
        private = self._keys.get(key_id)
        if private is None:
            raise MasterKeyMissing(f"What is sealed takes the master key {key_id.hex()}, which is not here.")
        nonce, wrapped = sealed[_EPHEMERAL_END:_WRAP_NONCE_END], sealed[_WRAP_NONCE_END:_WRAP_END]
        try:
            # ValueError: a public key whose exchange says nothing, made up to be one.
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
            key = _wrapping_key(shared, public, private.public_key())
            return AESGCM(key).decrypt(nonce, wrapped, place.bound(key_id))
        except (InvalidTag, ValueError):
            raise CannotOpen("What is sealed was changed, or belongs elsewhere.") from None


def _wrapping_key(shared: bytes, ephemeral: bytes, master: X25519PublicKey) -> bytes:
    """Both public keys as the salt: a key for this pair alone (RFC 9180, 4.1, does the same)."""
    salt = ephemeral + master.public_bytes_raw()
    return HKDF(SHA256(), _KEY_BYTES, salt=salt, info=b"headrace sealed data key 1").derive(shared)


def _id_of(key: X25519PublicKey) -> bytes:
    return hashlib.sha256(key.public_bytes_raw()).digest()[:_KEY_ID_BYTES]


def _private_key(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(_bytes(text, PRIVATE_PREFIX, "private"))


def _public_text(key: X25519PublicKey) -> str:
    return PUBLIC_PREFIX + _text(key.public_bytes_raw())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str, prefix: str, half: str) -> bytes:
    wrong = MasterKeyInvalid(f"must be the {half} half of a master key: it begins with {prefix}")
    body = text.strip()
    if not body.startswith(prefix):
        raise wrong
    try:
        raw = base64.b64decode(body.removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if len(raw) != _KEY_BYTES:
        raise wrong
    return raw
