"""Sealed secrets: opened by the holder of the master key, where they belong, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.crypto import Binding, CannotOpen, MasterKeyMalformed, Opener, Sealer, new_master_key

MASTER = new_master_key()
OPENER = Opener.from_text(MASTER)
SEALER = Sealer.from_text(OPENER.sealer.text)
MINE = Binding("acc_a", "key_1", "secret")
SECRET = b"sk-ant-canary"


@given(st.binary(max_size=500))
def test_what_was_sealed_opens(secret: bytes) -> None:
    assert OPENER.open(SEALER.seal(secret, MINE), MINE) == secret


def test_no_two_seals_are_alike_and_none_shows_the_secret() -> None:
    one, other = SEALER.seal(SECRET, MINE), SEALER.seal(SECRET, MINE)

    assert one != other
    assert SECRET not in one
    assert len({one[at : at + 12] for at in range(0, 40, 4)}) == 10


@pytest.mark.parametrize(
    "elsewhere",
    [
        Binding("acc_b", "key_1", "secret"),
        Binding("acc_a", "key_2", "secret"),
        Binding("acc_a", "key_1", "name"),
        Binding("acc_akey_1", "", "secret"),
        Binding("", "acc_akey_1", "secret"),
    ],
)
def test_moved_elsewhere_it_does_not_open(elsewhere: Binding) -> None:
    with pytest.raises(CannotOpen):
        OPENER.open(SEALER.seal(SECRET, MINE), elsewhere)


def test_changed_in_any_byte_it_does_not_open() -> None:
    sealed = SEALER.seal(SECRET, MINE)

    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(CannotOpen) as refused:
            OPENER.open(bytes(changed), MINE)
        assert "canary" not in str(refused.value)


@given(st.binary(max_size=300))
def test_bytes_of_no_seal_do_not_open(junk: bytes) -> None:
    with pytest.raises(CannotOpen):
        OPENER.open(junk, MINE)


def test_cut_short_it_does_not_open() -> None:
    sealed = SEALER.seal(SECRET, MINE)

    for length in range(len(sealed)):
        with pytest.raises(CannotOpen):
            OPENER.open(sealed[:length], MINE)


def test_a_head_of_another_record_does_not_fit() -> None:
    one, other = SEALER.seal(SECRET, MINE), SEALER.seal(b"another", MINE)

    with pytest.raises(CannotOpen):
        OPENER.open(other[:101] + one[101:], MINE)


def test_another_master_key_opens_nothing() -> None:
    with pytest.raises(CannotOpen, match="another master key"):
        Opener.from_text(new_master_key()).open(SEALER.seal(SECRET, MINE), MINE)


def test_a_new_master_key_takes_over_without_touching_the_secret() -> None:
    newer = new_master_key()
    both = Opener.from_text(newer, MASTER)
    sealed = SEALER.seal(SECRET, MINE)

    rewrapped = both.rewrap(sealed, MINE)

    assert both.open(sealed, MINE) == both.open(rewrapped, MINE) == SECRET
    assert rewrapped[101:] == sealed[101:]
    assert Opener.from_text(newer).open(rewrapped, MINE) == SECRET
    with pytest.raises(CannotOpen):
        OPENER.open(rewrapped, MINE)
    with pytest.raises(CannotOpen):
        both.rewrap(sealed, Binding("acc_b", "key_1", "secret"))


@pytest.mark.parametrize("text", ["", "hmk_", MASTER[:-1], MASTER[4:], "hmk_" + "!" * 43, SEALER.text])
def test_text_that_is_no_master_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(MasterKeyMalformed) as refused:
        Opener.from_text(text)

    assert not text[4:] or text[4:] not in str(refused.value)
