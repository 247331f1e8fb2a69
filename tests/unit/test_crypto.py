"""Sealed boxes: what opens them, and that nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.crypto import (
    CannotOpen,
    MasterKeyInvalid,
    MasterKeyMissing,
    Opener,
    Place,
    Sealer,
    new_master_key,
    public_half,
)

PRIVATE, PUBLIC = new_master_key()
LATER_PRIVATE, LATER_PUBLIC = new_master_key()
SEALER, OPENER = Sealer(PUBLIC), Opener(PRIVATE)
PLACE = Place("acc_1", "key_1", "api_key")
SECRET = "sk-canary-0123456789"

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
PLACES = st.builds(Place, TEXT, TEXT, TEXT)


@given(st.text(st.characters(codec="utf-8"), max_size=300), PLACES)
def test_what_was_sealed_opens_in_its_place(secret: str, place: Place) -> None:
    assert OPENER.open(SEALER.seal(secret, place), place) == secret


@given(PLACES, PLACES)
def test_it_opens_in_no_other_place(sealed_in: Place, opened_in: Place) -> None:
    sealed = SEALER.seal(SECRET, sealed_in)

    if opened_in == sealed_in:
        assert OPENER.open(sealed, opened_in) == SECRET
    else:
        with pytest.raises(CannotOpen):
            OPENER.open(sealed, opened_in)


@pytest.mark.parametrize(
    "place",
    [
        Place("acc_2", "key_1", "api_key"),
        Place("acc_1", "key_2", "api_key"),
        Place("acc_1", "key_1", "other"),
        Place("acc_1key_1", "", "api_key"),
    ],
)
def test_a_swapped_row_and_a_moved_field_do_not_open_and_do_not_say_what_they_hold(place: Place) -> None:
    with pytest.raises(CannotOpen) as refused:
        OPENER.open(SEALER.seal(SECRET, PLACE), place)

    assert SECRET not in repr(refused.value)
    assert refused.value.__suppress_context__


def test_every_changed_byte_is_noticed() -> None:
    sealed = SEALER.seal(SECRET, PLACE)

    for at in range(len(sealed)):
        changed = bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]])
        with pytest.raises(CannotOpen):
            OPENER.open(changed, PLACE)


def test_every_shortened_box_is_refused() -> None:
    sealed = SEALER.seal(SECRET, PLACE)

    for end in range(len(sealed)):
        with pytest.raises(CannotOpen):
            OPENER.open(sealed[:end], PLACE)


def test_a_public_key_that_says_nothing_is_refused() -> None:
    sealed = SEALER.seal(SECRET, PLACE)

    with pytest.raises(CannotOpen):
        OPENER.open(sealed[:9] + bytes(32) + sealed[41:], PLACE)


def test_another_master_key_does_not_open_it_and_is_told_which_one_would() -> None:
    with pytest.raises(MasterKeyMissing, match=SEALER.key_id):
        Opener(LATER_PRIVATE).open(SEALER.seal(SECRET, PLACE), PLACE)


def test_the_key_before_still_opens_what_it_sealed() -> None:
    both = Opener(LATER_PRIVATE, [PRIVATE])

    assert both.open(SEALER.seal(SECRET, PLACE), PLACE) == SECRET
    assert both.open(Sealer(LATER_PUBLIC).seal(SECRET, PLACE), PLACE) == SECRET


@given(TEXT, PLACES)
def test_rewrapped_it_opens_with_the_later_key_alone_and_its_ciphertext_stays(
    secret: str, place: Place
) -> None:
    sealed = SEALER.seal(secret, place)

    rewrapped = Opener(LATER_PRIVATE, [PRIVATE]).rewrap(sealed, place, Sealer(LATER_PUBLIC))

    assert Opener(LATER_PRIVATE).open(rewrapped, place) == secret
    own = len(secret.encode()) + 28
    assert rewrapped[-own:] == sealed[-own:]
    with pytest.raises(MasterKeyMissing):
        OPENER.open(rewrapped, place)


def test_it_is_not_rewrapped_for_another_place() -> None:
    with pytest.raises(CannotOpen):
        OPENER.rewrap(SEALER.seal(SECRET, PLACE), Place("acc_2", "key_1", "api_key"), Sealer(LATER_PUBLIC))


def test_sealed_twice_it_reads_differently_throughout() -> None:
    one, other = SEALER.seal(SECRET, PLACE), SEALER.seal(SECRET, PLACE)

    assert one[:9] == other[:9]
    assert all(
        one[start:end] != other[start:end] for start, end in ((9, 41), (41, 53), (53, 101), (101, 113))
    )
    assert SECRET.encode() not in one


def test_the_public_half_follows_from_the_private_one() -> None:
    assert public_half(PRIVATE) == PUBLIC


@pytest.mark.parametrize(
    "wrong",
    ["", "hrpublic_", PRIVATE, PUBLIC[:-1], PUBLIC + "A", "hrpublic_ä", PUBLIC[9:]],
    ids=["empty", "prefix", "private", "shorter", "longer", "no-ascii", "bare"],
)
def test_what_is_no_public_half_is_refused_without_being_repeated(wrong: str) -> None:
    with pytest.raises(MasterKeyInvalid) as refused:
        Sealer(wrong)

    assert not wrong.removeprefix("hrpublic_") or wrong not in str(refused.value)


@pytest.mark.parametrize(
    "wrong", ["", PUBLIC, PRIVATE[:-2], PRIVATE + "A"], ids=["empty", "public", "shorter", "longer"]
)
def test_what_is_no_private_half_is_refused_without_being_repeated(wrong: str) -> None:
    for private, before in ((wrong, []), (PRIVATE, [wrong])):
        with pytest.raises(MasterKeyInvalid) as refused:
            Opener(private, before)
        assert not wrong or wrong not in str(refused.value)
