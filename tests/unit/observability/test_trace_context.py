"""What is believed of a traceparent and a tracestate; what is not is nothing."""

from __future__ import annotations

import pytest

from shared.observability.trace_context import MAX_STATE_CHARS, of_headers, parse, tidy

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_good_one_says_trace_span_and_whether_it_is_sampled() -> None:
    context = parse(GOOD, "vendor=1")

    assert context is not None
    assert (context.trace_id, context.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert (context.flags, context.state) == (1, "vendor=1")
    assert context.traceparent == GOOD


@pytest.mark.parametrize(
    ("parent", "told_on"),
    [
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", GOOD),
        (f"cc-{TRACE}-{SPAN}-01", GOOD),
    ],
)
def test_later_versions_and_unknown_flags_are_read_as_far_as_they_are_known(
    parent: str, told_on: str
) -> None:
    context = parse(parent)

    assert context is not None
    assert context.traceparent == told_on


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}g-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        "\u0661" * 55,
        "x" * 100_000,
    ],
)
def test_a_bad_one_is_none(parent: str) -> None:
    assert parse(parent) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        (" a=1 ,, b=2\t", "a=1,b=2"),
        ("tenant@vendor=x y", "tenant@vendor=x y"),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("a=", ""),
        ("a", ""),
        ("a=1=2", ""),
        ("a=\u00fc", ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
        ("a=" + "1" * MAX_STATE_CHARS, ""),
    ],
)
def test_a_tracestate_is_kept_whole_or_not_at_all(state: str, kept: str) -> None:
    assert tidy(state) == kept


def test_a_bad_tracestate_takes_nothing_from_the_traceparent() -> None:
    context = parse(GOOD, "A=1")

    assert context is not None
    assert context.state == ""


def test_of_two_traceparents_none_is_believed_and_two_tracestates_are_one() -> None:
    parent = (b"traceparent", GOOD.encode())
    one = of_headers([(b"host", b"x"), parent, (b"tracestate", b"a=1"), (b"tracestate", b"b=2")])

    assert one is not None
    assert one.state == "a=1,b=2"
    assert of_headers([parent, parent]) is None
    assert of_headers([(b"tracestate", b"a=1")]) is None
