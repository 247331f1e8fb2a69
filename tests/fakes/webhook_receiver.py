"""Who webhooks are sent to: a server on a real socket that keeps what it is sent."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook

from tests.fakes.server_process import free_port


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    def verified(self, secret: str) -> dict[str, Any]:
        """The event, by the reference library. Raises WebhookVerificationError."""
        event: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return event


@dataclass
class Says:
    """One answer. `after`: not before it is set."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    after: asyncio.Event | None = None

    @property
    def head(self) -> bytes:
        lines = {"Content-Length": "0", "Connection": "close", **self.headers}
        told = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n{told}\r\n".encode()


class WebhookReceiver:
    """Answers 204, or what `says` and `next_says` hold."""

    def __init__(self) -> None:
        self.port = free_port()
        self.received: list[Received] = []
        self.says = Says()
        self.next_says: deque[Says] = deque()
        """Taken from the left, before `says`."""
        self.open = 0
        """Calls that wait for their answer."""
        self._server: asyncio.Server | None = None

    @property
    def host(self) -> str:
        """As the setting of private hosts takes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook"

    @property
    def ids(self) -> list[str]:
        return [received.id for received in self.received]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(first.split(" ")[1], headers, body))
            says = self.next_says.popleft() if self.next_says else self.says
            if says.after is not None:
                await says.after.wait()
            writer.write(says.head)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # killed, or out of patience
        finally:
            self.open -= 1
            writer.close()
