"""How a case of the bad-input matrix is written: a route, bytes to send, an answer to get."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from tests.acceptance.raw_http import request

CANARY: Final = "canary-5f1c8e0b7a"
"""Stands wherever a value can stand; no answer and no log may repeat it."""

JSON_TYPE: Final = (b"Content-Type", b"application/json")


class Route(Enum):
    """`value`: the path. Errors are told in the form of the route that was asked."""

    OPENAI = b"/v1/chat/completions"
    UNIFIED = b"/api/v1/chat"

    def chat(self, **fields: Any) -> dict[str, Any]:
        """A good request, with `fields` in place of its own."""
        own = {"provider": "openai"} if self is Route.UNIFIED else {}
        messages = [{"role": "user", "content": "Hello"}]
        return {**own, "model": "gpt-4o-mini", "messages": messages, **fields}

    def chat_with(self, member: bytes) -> bytes:
        """The same as bytes, with `member` as its last, whatever that is."""
        return json.dumps(self.chat()).encode()[:-1] + b"," + member + b"}"


@dataclass(frozen=True)
class Answer:
    """`kind`: error type of the unified form; OpenAI's is `invalid_request_error` for all below 500.

    None stands for whatever. Status 0 is a connection closed without a word.
    """

    statuses: frozenset[int]
    kind: str | None = None
    code: str | None = None
    param: str | None = None


def answers(
    *statuses: int, kind: str | None = "validation_error", code: str | None = None, param: str | None = None
) -> Answer:
    return Answer(frozenset(statuses), kind, code, param)


@dataclass(frozen=True)
class Case:
    """What to write, and what to hear.

    form: the route in whose form errors are told
    closes: the connection has to end with the answer
    then_eof: say that no more comes
    """

    row: int
    name: str
    route: Route
    writes: tuple[bytes, ...]
    answer: Answer
    form: Route
    closes: bool = False
    then_eof: bool = False

    @property
    def label(self) -> str:
        return f"{self.row:02d} {self.name} {self.route.name.lower()}"


class Writer:
    """Writes cases for one route and one key."""

    def __init__(self, route: Route, api_key: str) -> None:
        self.route = route
        self.key = (b"Authorization", b"Bearer " + api_key.encode())

    def body(self, row: int, name: str, body: bytes | dict[str, Any], answer: Answer) -> Case:
        """A body in a request that is fine otherwise."""
        return self.headers(row, name, [], answer, body=body)

    def headers(
        self,
        row: int,
        name: str,
        extra: list[tuple[bytes, bytes]],
        answer: Answer,
        *,
        body: bytes | dict[str, Any] | None = None,
        content_type: tuple[bytes, bytes] | None = JSON_TYPE,
        closes: bool = False,
        form: Route | None = None,
        **line: Any,
    ) -> Case:
        sent = self.route.chat() if body is None else body
        raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        headers = [self.key, *([] if content_type is None else [content_type]), *extra]
        return self.raw(
            row,
            name,
            request(**{"target": self.route.value, "headers": headers, "body": raw, **line}),
            answer=answer,
            form=form,
            closes=closes,
        )

    def raw(
        self,
        row: int,
        name: str,
        *writes: bytes,
        answer: Answer,
        form: Route | None = None,
        closes: bool = False,
        then_eof: bool = False,
    ) -> Case:
        """Bytes as they are."""
        return Case(row, name, self.route, writes, answer, form or self.route, closes, then_eof)

    def framed(self, *headers: tuple[bytes, bytes], body: bytes) -> bytes:
        """A request whose framing is told by `headers` alone."""
        return request(
            target=self.route.value,
            headers=[self.key, JSON_TYPE, *headers],
            body=body,
            with_length=False,
        )
