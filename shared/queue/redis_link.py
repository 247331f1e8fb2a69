"""What commands go through: a link to Redis. To one server it is one connection, on which
commands issued in one loop tick leave in one write.

redis-py costs 51 us of CPU a command because each one takes a connection out of a pool,
writes, and awaits its reply. Here every caller shares one socket: commands are packed as
they come, flushed once at the end of the tick, and replies resolve futures in order.
Nothing waits for a timer, so an idle link adds no latency.

A cancelled caller leaves its reply to be read and thrown away, so a reply can never reach
somebody else. When the connection breaks, or a reply is `timeout` late, every pending
call fails with ConnectionError or TimeoutError of redis-py and the next call reconnects.
Whether a failed call had run on the server is unknown: only idempotent scripts go here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class NoReplicasError(ResponseError):
    """Fewer replicas than `min-replicas-to-write` are there to hear of a write, so it was refused."""


class CannotPersistError(ResponseError):
    """The server could not write to its disk (MISCONF), so it refuses writes until it can."""


_ERRORS: Final[dict[str, type[RedisError]]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    # A blocking read was ended because its server is no master any more.
    "UNBLOCKED": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "OOM": OutOfMemoryError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "CLUSTERDOWN": ClusterDownError,
    "TRYAGAIN": TryAgainError,
    "MASTERDOWN": MasterDownError,
    "NOREPLICAS": NoReplicasError,
    "MISCONF": CannotPersistError,
}
_REDIRECTIONS: Final[dict[str, type[AskError]]] = {"MOVED": MovedError, "ASK": AskError}

TRANSIENT: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
    MasterDownError,
    NoReplicasError,
    CannotPersistError,
)
"""The server is away or not itself yet: the same idempotent call may be sent again."""

RedisArg = str | bytes | int | float


_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")
"""Where Redis before 7.0 puts the code of an error that a command inside a script met."""


def _reply_error(message: str) -> RedisError:
    code, _, rest = message.partition(" ")
    if redirection := _REDIRECTIONS.get(code):
        return redirection(rest)
    if code == "ERR":
        if "max number of clients" in message:
            return RedisConnectionError(message)
        if nested := _IN_SCRIPT.search(message):
            code = nested[1]
    return _ERRORS.get(code, ResponseError)(message)


def pack(*args: RedisArg) -> bytes:
    # hiredis' stub knows tuples of one element only.
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    return packed


class RespProtocol(asyncio.Protocol):
    """Feeds what arrives to hiredis and hands each reply to `on_reply`."""

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[RespProtocol], None]) -> None:
        self._reader = hiredis.Reader(replyError=_reply_error)
        self._on_reply = on_reply
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._on_lost(self)


async def open_connection(
    url: str, on_reply: Callable[[Any], None], on_lost: Callable[[RespProtocol], None]
) -> RespProtocol:
    """Connect only; `handshake_commands(url)` are the caller's first commands.

    Takes the URL forms of redis-py: redis://, rediss:// and unix://, with user, password and database.
    """
    options = parse_url(url)
    loop = asyncio.get_running_loop()

    def factory() -> RespProtocol:
        return RespProtocol(on_reply, on_lost)

    if options.get("connection_class") is UnixDomainSocketConnection:
        _, protocol = await loop.create_unix_connection(factory, options["path"])
        return protocol
    context = None
    if options.get("connection_class") is SSLConnection:
        context = ssl.create_default_context(cafile=cast("str | None", options.get("ssl_ca_certs")))
        if options.get("ssl_cert_reqs") in {"none", None} and "ssl_cert_reqs" in options:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    _, protocol = await loop.create_connection(
        factory, options.get("host", "localhost"), options.get("port", 6379), ssl=context
    )
    return protocol


def handshake_commands(url: str) -> list[bytes]:
    options = parse_url(url)
    commands: list[bytes] = []
    if password := options.get("password"):
        user = options.get("username")
        commands.append(pack("AUTH", user, password) if user else pack("AUTH", password))
    if db := options.get("db"):
        commands.append(pack("SELECT", str(db)))
    return commands


def redacted(url: str) -> str:
    """The URL as it may be logged: hosts and database, no credentials and no options."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[?#]', rest)[0].rpartition('@')[2]}"


class RedisLink(ABC):
    """Redis, whatever it is: one server, a master under Sentinel, a cluster. `open_link` makes one."""

    is_one_server: bool = True
    """Whether one command may name keys of several shards."""

    @abstractmethod
    async def execute(self, *args: RedisArg) -> Any:
        """The server's reply, undecoded. Raises RedisError (redis-py's tree)."""

    def start(self, *args: RedisArg) -> asyncio.Future[Any]:
        """The same, for whom the answer is to be told in a callback: without a task where none is needed."""
        return asyncio.ensure_future(self.execute(*args))

    async def execute_many(self, commands: list[tuple[RedisArg, ...]]) -> list[Any]:
        """All replies in order; a refused command appears as its exception instead of raising."""
        return await asyncio.gather(*(self.execute(*c) for c in commands), return_exceptions=True)

    @abstractmethod
    async def execute_everywhere(self, *args: RedisArg) -> list[Any]:
        """The replies of all servers that take writes and answer; raises RedisError when none does."""

    @abstractmethod
    async def reach(self, key: str) -> Hashable:
        """Connect to the server of `key`; another answer than before means that it was away, or that
        it is another one. Raises RedisError.
        """

    @abstractmethod
    def another(self, *, timeout: float) -> RedisLink:
        """A link to the same Redis with connections of its own, for reads that block."""

    @abstractmethod
    async def close(self) -> None: ...

    @property
    @abstractmethod
    def connections(self) -> int:
        """How often this link connected."""


class ServerLink(RedisLink):
    """`timeout`: seconds a reply, or a connection attempt, may take."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._protocol: RespProtocol | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False
        self._connections = 0

    @property
    def connections(self) -> int:
        return self._connections

    async def execute(self, *args: RedisArg) -> Any:
        if self._protocol is None or self._connecting is not None:
            await self._ready()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._send(pack(*args), future, loop)
        return await future

    def start(self, *args: RedisArg) -> asyncio.Future[Any]:
        if self._protocol is None or self._connecting is not None:
            return super().start(*args)
        return self._ask(pack(*args))

    async def execute_asking(self, *args: RedisArg) -> Any:
        """The same on a node of a cluster that is only about to get the key's slot."""
        if self._protocol is None or self._connecting is not None:
            await self._ready()
        # It holds for the next command of the connection: nothing may come between the two.
        allowed, answer = self._ask(pack("ASKING")), self._ask(pack(*args))
        await asyncio.gather(allowed, return_exceptions=True)
        return await answer

    async def execute_everywhere(self, *args: RedisArg) -> list[Any]:
        return [await self.execute(*args)]

    async def reach(self, key: str) -> Hashable:
        await self.execute("PING")
        return self._connections

    def another(self, *, timeout: float) -> RedisLink:
        return type(self)(self._url, timeout=timeout)

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop(RedisConnectionError("closed"))

    def _send(self, packed: bytes, future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._pending.append((future, loop.time()))
        self._out.append(packed)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._timeout, self._check_late)

    def _flush(self) -> None:
        self._flush_scheduled = False
        out, self._out = self._out, []
        if self._protocol is not None and self._protocol.transport is not None and out:
            self._protocol.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _on_reply(self, reply: Any) -> None:
        if not self._pending:
            return
        future, _ = self._pending.popleft()
        if future.done():
            return
        if isinstance(reply, RedisError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _on_lost(self, protocol: RespProtocol) -> None:
        if protocol is self._protocol:
            self._drop(RedisConnectionError("connection to Redis lost"))

    def _check_late(self) -> None:
        self._watchdog = None
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        late_at = self._pending[0][1] + self._timeout
        if loop.time() >= late_at:
            self._drop(RedisTimeoutError(f"no reply from Redis within {self._timeout} s"))
        else:
            self._watchdog = loop.call_at(late_at, self._check_late)

    def _drop(self, error: RedisError) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._out.clear()
        pending, self._pending = self._pending, deque()
        for future, _ in pending:
            if not future.done():
                future.set_exception(error)

    def _ask(self, packed: bytes) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._send(packed, future, loop)
        return future

    async def _ready(self) -> None:
        # Nothing goes out before the handshake: it would run unauthenticated, or on database 0.
        await self._connect()
        # Lost again before this caller ran: queued now, its call would be answered with the
        # first reply of the next connection, and every later caller with its neighbour's.
        if self._protocol is None:
            raise RedisConnectionError("connection to Redis lost")

    async def _connect(self) -> None:
        if self._closed:
            raise RedisConnectionError("closed")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open(), name="redis-connect")
            self._connecting.add_done_callback(self._connected)
        # Shielded: other callers wait for the same connection.
        await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _locate(self) -> str:
        """The URL of the server to connect to now. Raises RedisError."""
        return self._url

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                url = await self._locate()
                protocol = await open_connection(url, self._on_reply, self._on_lost)
        except TimeoutError as exc:
            raise RedisTimeoutError(f"no connection to Redis within {self._timeout} s") from exc
        except OSError as exc:
            raise RedisConnectionError(f"cannot connect to Redis at {redacted(self._url)}") from exc
        if protocol.transport is None:
            raise RedisConnectionError("connection to Redis lost")
        self._protocol = protocol
        self._connections += 1
        replies = [self._ask(command) for command in handshake_commands(url)]
        for answer in await asyncio.gather(*replies, return_exceptions=True):
            if isinstance(answer, BaseException):
                self._drop(RedisConnectionError("Redis refused the handshake"))
                raise RedisConnectionError(
                    f"Redis refused the handshake: {type(answer).__name__}"
                ) from answer
