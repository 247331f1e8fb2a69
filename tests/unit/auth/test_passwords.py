"""Passwords: hashed a few at a time, the same work for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from shared.auth.passwords import Passwords
from shared.errors import InvalidRequest, TooManyRequests


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(slots=2, queue=2)
    yield made
    made.close()


async def test_a_password_fits_its_own_hash_and_no_other_does(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse 🐎")

    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify("correct horse 🐎", stored)
    assert not await passwords.verify("correct horse", stored)
    assert not await passwords.verify("correct horse 🐎", "no hash at all")


@pytest.mark.parametrize("password", ["", "seven77", "x" * 257])
async def test_a_password_of_the_wrong_length_is_refused_before_it_is_hashed(
    passwords: Passwords, password: str
) -> None:
    with pytest.raises(InvalidRequest):
        await passwords.hash(password)

    assert passwords.hashed == 0


@pytest.mark.parametrize("password", ["a wrong one", "", "x" * 100_000])
async def test_nobody_is_hashed_for_as_somebody_is(passwords: Passwords, password: str) -> None:
    stored = await passwords.hash("somebody's own")
    await passwords.verify("warm up", None)
    before = passwords.hashed

    assert not await passwords.verify(password, None)
    of_nobody = passwords.hashed - before
    assert not await passwords.verify(password, stored)

    assert of_nobody == passwords.hashed - before - of_nobody == 1


async def test_more_at_once_than_there_is_room_for_are_refused_at_once(passwords: Passwords) -> None:
    answers = await asyncio.gather(
        *(passwords.hash(f"password {n}") for n in range(20)), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, TooManyRequests)]
    assert len(refused) == 16
    assert passwords.hashed == 4
    assert await passwords.hash("there is room again")


def test_a_hash_of_other_parameters_is_outdated(passwords: Passwords) -> None:
    assert passwords.is_outdated(
        PasswordHasher(memory_cost=8 * 1024, time_cost=1, parallelism=1).hash("x" * 8)
    )
