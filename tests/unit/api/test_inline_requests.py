"""Requests are taken out of the body as they were written, wherever its chunks end."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from api.inline_requests import MAX_REST_BYTES, Splitter
from shared.errors import BrokerError, InvalidJson, PayloadTooLarge, TooComplex
from shared.requests.json_body import parse_object


def split(body: bytes, *, size: int = 1 << 20, **limits: int) -> tuple[list[bytes], dict[str, Any]]:
    """The requests and what is left, of a body that comes in chunks of that size."""
    splitter = Splitter(**{"max_bytes": 1 << 20, "max_nodes": 1_000, "max_all_nodes": 5_000, **limits})
    found = []
    for begin in range(0, len(body), size):
        found += list(splitter.feed(body[begin : begin + size]))
    return found, parse_object(splitter.rest())


AWKWARD: dict[str, Any] = {
    "custom_id": 'a"b\\',
    "params": {
        "text": 'brackets ]}[{ , and "quotes" \\" \\\\ \u2028 é',
        "requests": [[], [1, {"requests": [2]}], "]"],
        "empty": {"": {}},
        "numbers": [1, -2.5e-7, None, True],
    },
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_requests_come_out_as_they_were_written_whatever_the_chunks(size: int, indent: int | None) -> None:
    said = {
        "metadata": {"a": "[", "requests": "\\"},
        "requests": [AWKWARD, {"custom_id": "b", "params": {}}, AWKWARD],
        "window": 3,
    }

    found, rest = split(json.dumps(said, indent=indent).encode(), size=size)

    assert [orjson.loads(one) for one in found] == said["requests"]
    assert rest == {**said, "requests": []}


@pytest.mark.parametrize(
    ("body", "items"),
    [
        (b'{"requests":[]}', []),
        (b'{"requests" : [ \r\n ]}', []),
        (b'{"requests":[1,"a",null,[2]]}', [b"1", b'"a"', b"null", b"[2]"]),
        (b'{"requests":[{},]}', [b"{}", b""]),
        (b'{"requests":[,{}]}', [b"", b"{}"]),
    ],
)
def test_whatever_stands_between_commas_is_given_to_be_judged(body: bytes, items: list[bytes]) -> None:
    found, rest = split(body)

    assert (found, rest) == (items, {"requests": []})


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"requests":[1]}}',
        b'{"\\"requests":[1]}',
        b'{"a":"\\"requests\\":","b":[1]}',
        b'{"\\u0072equests":[1]}',
    ],
)
def test_only_the_list_that_is_plainly_named_so_is_taken_out(body: bytes) -> None:
    found, rest = split(body)

    assert (found, rest) == ([], orjson.loads(body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1",
        b'{"requests":[{}',
        b'{"requests":[{}}',
        b'{"requests":["a',
        b'{"requests":[{}]',
        b'{"requests":[{}]}}',
        b'{"requests":[{}],"requests":[{}]}',
        b'["requests":[{}]]',
        b']{"requests":[{}]}',
        b'{"requests":[{}]} {"requests":[{}]}',
        b'{"requests":[1]}\\',
        b'{"a":"' + b"\\",
    ],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        split(body)


@pytest.mark.parametrize("size", [100, 1 << 20])
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"requests":[{"a":"' + b"x" * 2_000 + b'"}]}', PayloadTooLarge),
        (b'{"requests":[' + b" " * 2_000 + b"{}]}", PayloadTooLarge),
        (b'{"a":"' + b"x" * MAX_REST_BYTES + b'","requests":[]}', PayloadTooLarge),
        (b" " * (MAX_REST_BYTES + 1), PayloadTooLarge),
        (b'{"requests":[' + b"[" * 1_500 + b"]" * 1_500 + b"]}", TooComplex),
        (b'{"requests":[' + b"[[],{}]," * 2_000 + b"1]}", TooComplex),
        (b'{"a":[' + b"[]," * 2_000 + b"1]}", TooComplex),
    ],
    ids=["request", "white space", "rest", "white space around", "brackets", "all brackets", "elsewhere"],
)
def test_what_is_too_much_is_refused_before_it_is_held(
    body: bytes, error: type[BrokerError], size: int
) -> None:
    with pytest.raises(error):
        split(body, size=size, max_bytes=1_000 if error is PayloadTooLarge else 10_000)
