"""The form of an API key, told apart from anything else without asking a store."""

from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.auth.api_keys import digest, mint, parse
from shared.ids import AccountId

PEPPER = b"p" * 32
NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE62 = string.ascii_letters + string.digits


def a_key() -> str:
    return mint(PEPPER, account=AccountId("acme"), name="laptop", now=NOW)[0]


def test_a_new_key_parses_and_names_its_record() -> None:
    token, record = mint(PEPPER, account=AccountId("acme"), name="laptop", now=NOW)

    parsed = parse(token)

    assert parsed is not None
    assert parsed.id == record.id == f"key_{parsed.public_id}"
    assert record.digest == digest(PEPPER, token)
    assert len(token) == 65


def test_what_is_stored_of_a_key_shows_too_little_to_use_it() -> None:
    token, record = mint(PEPPER, account=AccountId("acme"), name="laptop", now=NOW)

    secret = token.removeprefix(record.prefix)[:-6]
    assert len(secret) == 43
    assert secret not in repr(record)
    assert token.startswith(record.prefix)
    assert token.endswith(record.last4)


def test_keys_do_not_repeat() -> None:
    assert len({a_key() for _ in range(1_000)}) == 1_000


A_KEY = a_key()
"""One for all examples: they are drawn from it."""


@given(st.data())
def test_a_key_with_one_character_changed_is_no_key(data: st.DataObject) -> None:
    token = A_KEY
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(BASE62 + "_-'\0\n é").filter(lambda c: c != token[at]))

    assert parse(token[:at] + other + token[at + 1 :]) is None


@given(st.text())
def test_text_is_no_key(text: str) -> None:
    assert parse(text) is None


@given(st.text(alphabet=BASE62, min_size=57, max_size=57))
def test_the_right_form_without_the_right_checksum_is_no_key(tail: str) -> None:
    # One in 62**6 would have it by chance, which is not a number of examples.
    assert parse("gw_live_" + tail) is None


@pytest.mark.parametrize("wrap", [" {}", "{} ", "{}\n", "{}0", "\ufeff{}", "{0}{0}", "\ud800{}"])
def test_a_key_with_anything_around_it_is_no_key(wrap: str) -> None:
    assert parse(wrap.format(a_key())) is None


@given(st.binary(min_size=32), st.binary(min_size=32))
def test_another_pepper_gives_another_digest(one: bytes, other: bytes) -> None:
    token = a_key()

    # HMAC pads a short secret with zeros: those count as the same.
    assert (digest(one, token) == digest(other, token)) == (one.rstrip(b"\0") == other.rstrip(b"\0"))
