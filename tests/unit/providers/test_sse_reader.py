from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ProviderAnswerInvalid
from shared.providers.sse_reader import SseEvent, SseReader

STREAM = (
    b"\xef\xbb\xbf: welcome\n\n"
    b'data: {"a":1}\r\n\r\n'
    b"event: ping\rdata\r\r"
    b"id: 7\nretry: 10\ndata:  two\ndata:lines \xf0\x9f\x8c\x8d\nunknown: x\n\n"
    b"event: nothing\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [
    SseEvent("message", b'{"a":1}'),
    SseEvent("ping", b""),
    SseEvent("message", b" two\nlines \xf0\x9f\x8c\x8d"),
    SseEvent("message", b"[DONE]"),
]


def read(*pieces: bytes) -> list[SseEvent]:
    reader = SseReader("acme")
    return [event for piece in pieces for event in reader.feed(piece)] + reader.close()


def feed_forever(reader: SseReader, piece: bytes) -> None:
    for _ in range(10_000):
        reader.feed(piece)


def test_events_are_read_whatever_their_line_ends_and_other_fields() -> None:
    assert read(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_reads_the_same_wherever_it_is_split(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in pairwise(edges)]

    assert read(*pieces) == EVENTS


def test_every_byte_may_come_alone() -> None:
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EVENTS


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
def test_an_event_without_its_closing_line_counts_at_the_end(end: bytes) -> None:
    assert read(b"data: last" + end) == [SseEvent("message", b"last")]


def test_nothing_is_invented_at_the_end() -> None:
    assert read(b"data: whole\n\n") == [SseEvent("message", b"whole")]
    assert read(b": bye") == []


@pytest.mark.parametrize(
    "piece",
    [b"x", b"data: " + b"x" * 50 + b"\n", b": comment", b"data:\n"],
    ids=["line", "data", "comment", "empty"],
)
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    reader = SseReader("acme", max_event_bytes=1000)

    with pytest.raises(ProviderAnswerInvalid, match="larger than 1000 bytes") as caught:
        feed_forever(reader, piece)
    assert caught.value.provider == "acme"


def test_many_small_events_in_one_read_are_not_one_large_one() -> None:
    reader = SseReader("acme", max_event_bytes=1000)

    assert len(reader.feed(b"data: x\n\n" * 10_000)) == 10_000


def test_a_single_event_over_the_cap_is_refused_even_when_it_came_whole() -> None:
    with pytest.raises(ProviderAnswerInvalid):
        SseReader("acme", max_event_bytes=10).feed(b"data: 12345678901\n\ndata: x\n\n")
