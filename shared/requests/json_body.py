"""Request bodies: strict JSON, or an error that says what is wrong and where.

Stricter than RFC 8259 wherever parsers disagree, since the provider behind us may read
the same bytes with another one: no duplicate keys, no NaN, no lone surrogates, no NUL,
one UTF-8 document without a byte order mark, and sizes that cost nobody a second.

    bytes -> orjson -> one walk over the containers -> the object
               |               |
               +-- refused     +-- a doubt: parse again with the standard library,
                                   which hears every key, and name the fault

Integers beyond 64 bits become floats, as in every JavaScript client.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, Never

import orjson

from shared.errors import InvalidJson, InvalidRequest, TooComplex

MAX_DEPTH: Final = 32
MAX_NODES: Final = 100_000
"""Commas and opening brackets outside strings: an upper bound on values."""
MAX_KEY_CHARS: Final = 256
MAX_INTEGER_DIGITS: Final = 4_300

_NOT_STRUCTURE: Final = bytes(byte for byte in range(256) if byte not in b",[{")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def parse_object(body: bytes, *, max_nodes: int = MAX_NODES) -> dict[str, Any]:
    """The JSON object in `body`, of at most `max_nodes` values.

    Raises InvalidJson, TooComplex, or InvalidRequest whose `param` is the path of the fault.
    """
    if len(body) > max_nodes:
        _refuse_many_nodes(body, max_nodes)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        _explain(body)
        raise InvalidJson("The body is not valid JSON.") from None
    if type(document) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    keys = _count_keys(document)
    if not _keys_are_all_seen(body, document, keys) or b"\\u0000" in body:
        _explain(body)
    return document


def render_path(steps: list[str | int] | tuple[str | int, ...]) -> str:
    """`messages[0].content`; a key that is no plain word is quoted and cut."""
    rendered = ""
    for step in steps:
        if isinstance(step, int):
            rendered += f"[{step}]"
        elif _PLAIN_KEY.match(step):
            rendered += f".{step}" if rendered else step
        else:
            rendered += f"[{json.dumps(step[:64])}]"
    return rendered


def _count_keys(document: dict[str, Any]) -> int:
    """Keys in all objects. Raises TooComplex for deep nesting and long keys."""
    keys = 0
    depth = 0
    level: list[Any] = [document]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            _refuse_depth()
        below: list[Any] = []
        for container in level:
            if type(container) is dict:
                keys += len(container)
                for key, value in container.items():
                    if len(key) > MAX_KEY_CHARS:
                        raise TooComplex(f"A key is longer than {MAX_KEY_CHARS} characters.")
                    kind = type(value)
                    if kind is dict or kind is list:
                        below.append(value)
            else:
                for value in container:
                    kind = type(value)
                    if kind is dict or kind is list:
                        below.append(value)
        level = below
    return keys


def _keys_are_all_seen(body: bytes, document: dict[str, Any], keys: int) -> bool:
    """Whether the parser kept every key of the text, so that none was written twice.

    Each key owns one colon, which follows a quote once white space is gone: if the text
    has no more of those than keys were kept, none was dropped. Text that looks like JSON
    inside a string makes this doubtful, never wrong; a body that equals what we would
    write ourselves is beyond doubt.
    """
    return (
        body.count(b":") == keys
        or orjson.dumps(document) == body
        or body.translate(None, b" \t\r\n").count(b'":') == keys
    )


def _refuse_many_nodes(body: bytes, limit: int) -> None:
    """Before any parser builds a million objects out of ten megabytes of `[],`."""
    if _nodes_at_most(body) <= limit:
        return
    bare = body
    if b"\\" in body:
        bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A node has at most a key and a text, of two quotes each.
    if bare.count(b'"') <= 4 * limit and _nodes_at_most(b"".join(bare.split(b'"')[::2])) <= limit:
        return
    raise TooComplex(f"The body holds more than {limit} values.")


def _nodes_at_most(text: bytes) -> int:
    return len(text.translate(None, _NOT_STRUCTURE))


def _refuse_depth() -> Never:
    raise TooComplex(f"The body is nested deeper than {MAX_DEPTH} levels.")


class _Repeats(dict[str, Any]):
    """An object in whose text a key stood twice."""

    repeated: str


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) == len(pairs):
        return document
    repeats = _Repeats(document)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeats.repeated = key
            break
        seen.add(key)
    return repeats


def _integer(digits: str) -> int | float:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise TooComplex(f"An integer has more than {MAX_INTEGER_DIGITS} digits.")
    # As the fast parser reads it: beyond 308 digits this is infinite, hence refused.
    return int(digits) if len(digits) < 19 else float(digits)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object_from_pairs, parse_int=_integer)


def _explain(body: bytes) -> None:
    """Find the fault with a parser that accepts more and tells more; silent when there is none."""
    try:
        document = _decoder.decode(body.decode())
    except UnicodeDecodeError as exc:
        raise InvalidJson(f"The body is not valid UTF-8 at byte {exc.start}.") from None
    except json.JSONDecodeError as exc:
        raise InvalidJson(
            f"The body is not valid JSON: {exc.msg} at line {exc.lineno} column {exc.colno}."
        ) from None
    except RecursionError:
        _refuse_depth()
    _walk(document)


def _walk(document: Any) -> None:
    """Raises for the first fault, with its path."""
    pending: list[tuple[Any, tuple[str | int, ...]]] = [(document, ())]
    while pending:
        value, path = pending.pop()
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, float):
            if not math.isfinite(value):
                where = render_path(path)
                raise InvalidRequest(f"{where or 'The body'} is not a finite number.", param=where or None)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                _refuse_depth()
            if isinstance(value, dict):
                _check_keys(value, path)
                pending.extend((below, (*path, key)) for key, below in reversed(value.items()))
            else:
                pending.extend((value[index], (*path, index)) for index in reversed(range(len(value))))


def _check_keys(value: dict[str, Any], path: tuple[str | int, ...]) -> None:
    if isinstance(value, _Repeats):
        where = render_path((*path, value.repeated))
        raise InvalidJson(f"{where} stands twice in the same object.", param=where)
    for key in value:
        if len(key) > MAX_KEY_CHARS:
            raise TooComplex(f"A key is longer than {MAX_KEY_CHARS} characters.")
        _check_text(key, (*path, key))


def _check_text(text: str, path: tuple[str | int, ...]) -> None:
    if "\x00" in text:
        fault = "contains a NUL character"
    elif _SURROGATE.search(text):
        fault = "contains half of a surrogate pair"
    else:
        return
    where = render_path(path)
    raise InvalidRequest(f"{where or 'The body'} {fault}.", param=where or None)
