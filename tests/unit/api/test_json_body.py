"""Rows 1 to 4 of the bad-input matrix: what a body must be before anything looks at its fields."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidJson, InvalidRequest, TooComplex
from shared.requests.json_body import parse_object, render_path

MEGABYTES_10 = 10 * 1024 * 1024

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=256)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(['{"a":1}', '"a" : 1', "\\u0000", "x: y", ' "b":', "\\"])
)
values = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=6)


@given(
    document=objects,
    ascii_only=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]),
    indent=st.sampled_from([None, 2]),
)
def test_a_valid_document_is_read_as_the_standard_library_reads_it(
    document: dict[str, Any], ascii_only: bool, separators: tuple[str, str], indent: int | None
) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only, separators=separators, indent=indent).encode()

    assert parse_object(body) == json.loads(body)


@given(st.binary(max_size=64) | st.text('{}[]",:\\ u0123abc\n', max_size=40).map(str.encode))
def test_any_bytes_are_an_object_or_a_refusal(body: bytes) -> None:
    try:
        document = parse_object(body)
    except InvalidRequest:
        return
    assert document == json.loads(body)


class _Pairs(list[tuple[str, Any]]):
    """An object as it is written: keys may repeat."""


pairs = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "a\\", "\\u0061x", 'q"']), below), max_size=4).map(
            _Pairs
        )
    ),
    max_leaves=10,
)


def write(value: Any, space: str) -> str:
    if isinstance(value, _Pairs):
        fields = (f"{json.dumps(key)}{space}:{space}{write(below, space)}" for key, below in value)
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(below, space) for below in value) + "]"
    return json.dumps(value)


def repeats_a_key(value: Any) -> bool:
    if isinstance(value, _Pairs):
        written = [key for key, _ in value]
        return len(set(written)) < len(written) or any(repeats_a_key(below) for _, below in value)
    return isinstance(value, list) and any(repeats_a_key(below) for below in value)


@given(st.tuples(st.sampled_from(["a", "b"]), pairs), st.sampled_from(["", " ", "\n", "\t \r\n"]))
def test_a_key_that_stands_twice_is_found_wherever_it_is(root: tuple[str, Any], space: str) -> None:
    value = _Pairs([root])
    body = write(value, space).encode()

    if repeats_a_key(value):
        with pytest.raises(InvalidJson):
            parse_object(body)
    else:
        assert parse_object(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"nothing",
        b'{"model": "gpt',
        b'{"model": "gpt"',
        b"{'model': 'gpt'}",
        b'{"a": 1,}',
        b'{"a": 01}',
        b'{"a": "\x01"}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-16-le"),
        b'{"a": 1} {"b": 2}',
        b'{"a": 1}\x00',
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
    ],
)
def test_what_is_not_one_json_document_is_invalid_json(body: bytes) -> None:
    with pytest.raises(InvalidJson) as refusal:
        parse_object(body)

    assert (refusal.value.status, refusal.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"text"', b"[{}]"])
def test_a_document_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_object(body)

    assert refusal.value.status == 422


def test_the_place_of_a_repeated_key_is_told() -> None:
    with pytest.raises(InvalidJson) as refusal:
        parse_object(b'{"messages": [{"role": "user", "role": "system"}]}')

    assert refusal.value.param == "messages[0].role"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 33 + b"]" * 33 + b"}",
        b'{"a":' + b'{"a":' * 40 + b"1" + b"}" * 41,
        b"[" * 200_000,
        b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"a":[' + b"1," * 100_000 + b"1]}",
        b'{"a":[' + b"[]," * 100_000 + b"1]}",
        b'{"' + b"k" * 257 + b'": 1}',
        b'{"a": ' + b"9" * 4_301 + b"}",
    ],
    ids=[
        "33 lists",
        "41 objects",
        "200k [",
        "2,000 lists",
        "100k values",
        "100k lists",
        "long key",
        "long integer",
    ],
)
def test_what_is_too_deep_too_many_or_too_long_is_too_complex(body: bytes) -> None:
    with pytest.raises(TooComplex) as refusal:
        parse_object(body)

    assert (refusal.value.status, refusal.value.code) == (400, "too_complex")


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"[" * MEGABYTES_10,
        lambda: b'{"a":[' + b"[]," * (MEGABYTES_10 // 3) + b"[]]}",
        lambda: b'{"a":[' + b"0," * (MEGABYTES_10 // 2) + b"0]}",
        lambda: b'{"a":[' + b'"",' * (MEGABYTES_10 // 3) + b'""]}',
        lambda: b'"' * MEGABYTES_10,
        lambda: b'{"a":' + b"1" * MEGABYTES_10 + b"}",
        lambda: b'{"' + b"k" * MEGABYTES_10 + b'":1}',
    ],
    ids=["brackets", "lists", "numbers", "texts", "quotes", "integer", "key"],
)
def test_ten_megabytes_of_nonsense_cost_less_than_50_ms(make: Callable[[], bytes]) -> None:
    body = make()

    def cpu_seconds() -> float:
        began = time.process_time()
        with pytest.raises(InvalidRequest):
            parse_object(body)
        return time.process_time() - began

    assert min(cpu_seconds() for _ in range(5)) < 0.05


def test_the_greatest_permitted_document_is_read() -> None:
    deep = b'{"a":' + b"[" * 31 + b"]" * 31 + b"}"
    wide = b'{"' + b"k" * 256 + b'":[' + b"1," * 99_990 + b"1]}"

    assert parse_object(deep)
    assert len(parse_object(wide)["k" * 256]) == 99_991


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"temperature": NaN}', "temperature"),
        (b'{"temperature": -Infinity}', "temperature"),
        (b'{"a": [0, 1e999]}', "a[1]"),
        (b'{"a": ' + b"9" * 400 + b"}", "a"),
        (b'{"messages": [{"content": "\\ud800"}]}', "messages[0].content"),
        (b'{"messages": [{"content": "x\\u0000y"}]}', "messages[0].content"),
        (b'{"a": {"x\\u0000": 1}}', 'a["x\\u0000"]'),
        (b'{"a": {"\\udfff": 1}}', 'a["\\udfff"]'),
    ],
)
def test_a_value_no_database_or_parser_agrees_on_is_refused_with_its_path(body: bytes, path: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_object(body)

    assert (refusal.value.status, refusal.value.param) == (422, path)


def test_text_that_only_looks_like_an_escape_is_kept() -> None:
    assert parse_object(b'{"a": "\\\\u0000 \\\\ud800"}') == {"a": "\\u0000 \\ud800"}


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_an_integer_beyond_64_bits_becomes_a_float() -> None:
    assert parse_object(b'{"seed": 123456789012345678901234567890}') == {"seed": 1.2345678901234568e29}


def test_a_path_quotes_and_cuts_odd_keys() -> None:
    assert render_path(["a", 0, "b c", "k" * 100]) == f'a[0]["b c"]["{"k" * 64}"]'


def test_a_route_may_take_more_values_than_others() -> None:
    body = b'{"input": [%b1]}' % (b"1," * 150_000)

    with pytest.raises(TooComplex):
        parse_object(body)
    with pytest.raises(TooComplex):
        parse_object(body, max_nodes=150_000)
    assert len(parse_object(body, max_nodes=200_000)["input"]) == 150_001
