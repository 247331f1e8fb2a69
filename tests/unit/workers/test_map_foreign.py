"""Every exception of the HTTP client becomes one of ours, wherever in a call it is raised."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, cast

import aiohttp
import aiohttp.client_exceptions
import aiohttp.http_exceptions
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from shared.domain.job import Job, JobKind, Lane, Surface, Target
from shared.errors import ProviderAnswerInvalid, ProviderError, ProviderTimeout, ProviderUnavailable
from shared.ids import AccountId, ApiKeyId, RequestId, new_job_id
from shared.providers import openai
from shared.settings import ProviderSettings
from workers.call_provider import FOREIGN, CallProgress, call_provider, map_foreign
from workers.transport import Transport

OF_WEBSOCKETS = {aiohttp.WebSocketError, aiohttp.WSMessageTypeError}
"""The only ones that no request of ours can meet."""

OTHERS: set[type[BaseException]] = {
    OSError,
    ConnectionResetError,
    ConnectionRefusedError,
    BrokenPipeError,
    socket.gaierror,
    TimeoutError,
    ssl.SSLError,
    ssl.SSLCertVerificationError,
    ssl.SSLEOFError,
    asyncio.IncompleteReadError,
    EOFError,
    ValueError,
    UnicodeError,
}


def foreign() -> list[type[BaseException]]:
    """Whatever the installed aiohttp can raise, and what the layers below it do."""
    modules = (aiohttp, aiohttp.client_exceptions, aiohttp.http_exceptions)
    found = {member for module in modules for _, member in inspect.getmembers(module, inspect.isclass)}
    raised = {c for c in found if issubclass(c, BaseException) and not issubclass(c, Warning)}
    return sorted((raised - OF_WEBSOCKETS) | OTHERS, key=lambda exc: exc.__qualname__)


def instance(kind: type[BaseException]) -> BaseException:
    headers = CIMultiDictProxy(CIMultiDict[str]())
    request = aiohttp.RequestInfo(
        URL("http://canary.invalid/"), "POST", headers, URL("http://canary.invalid/")
    )
    key = aiohttp.client_reqrep.ConnectionKey("canary.invalid", 80, False, True, None, None, None)
    known: dict[str, Any] = {
        "request_info": request,
        "history": (),
        "connection_key": key,
        "os_error": OSError(1, "canary"),
        "certificate_error": ssl.SSLCertVerificationError("canary"),
        "url": URL("http://canary.invalid/"),
        "path": "/canary",
        "expected": b"",
        "got": b"",
        "host": "canary.invalid",
        "port": 80,
        "hdr": "canary",
        "line": "canary",
        "message": "canary",
        "partial": b"",
        "code": 400,
    }
    if kind is asyncio.IncompleteReadError:
        return asyncio.IncompleteReadError(b"", 1)
    if not kind.__module__.startswith("aiohttp"):
        return kind("canary")
    parameters = inspect.signature(kind.__init__).parameters.values()
    taken = {
        p.name: known[p.name]
        for p in parameters
        if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY} and p.default is p.empty and p.name != "self"
    }
    return kind(**taken)


def expected(kind: type[BaseException]) -> type[ProviderError]:
    if issubclass(kind, TimeoutError):
        return ProviderTimeout
    if issubclass(kind, OSError | aiohttp.ClientSSLError):  # some are ValueErrors too
        return ProviderUnavailable
    http = aiohttp.http_exceptions.HttpProcessingError
    if issubclass(kind, aiohttp.ClientResponseError | aiohttp.InvalidURL | http | ValueError):
        return ProviderAnswerInvalid
    return ProviderUnavailable


def a_job(*, stream: bool) -> Job:
    return Job(
        id=new_job_id(),
        kind=JobKind.CHAT,
        lane=Lane.INTERACTIVE,
        surface=Surface.OPENAI,
        account=AccountId("acme"),
        api_key=ApiKeyId("key"),
        request_id=RequestId("req_1"),
        plan=(Target("openai", "m"),),
        stream=stream,
        include_usage=False,
        budget_ms=1_000,
        body=b'{"model":"m","messages":[]}',
    )


class Breaking:
    """A session and its response, one of which raises."""

    status = 200
    content_length = None
    content_type = "text/event-stream"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, error: BaseException, *, in_body: bool) -> None:
        self._error = error
        self._in_body = in_body

    @asynccontextmanager
    async def post(self, *_: object, **__: object) -> AsyncIterator[Breaking]:
        if not self._in_body:
            raise self._error
        yield self

    @property
    def content(self) -> Breaking:
        return self

    async def readany(self) -> bytes:
        raise self._error

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield b""
        raise self._error


class BreakingTransport(Transport):
    def __init__(self, error: BaseException, *, in_body: bool) -> None:
        super().__init__(ProviderSettings())
        self._breaking = Breaking(error, in_body=in_body)

    def session(self, *_: object) -> aiohttp.ClientSession:
        return cast(aiohttp.ClientSession, self._breaking)


async def nobody_reads(_: list[bytes]) -> None:
    raise AssertionError("there is nothing to emit")


@pytest.mark.parametrize("moment", ["request", "body", "stream"])
@pytest.mark.parametrize("kind", foreign(), ids=lambda kind: kind.__qualname__)
async def test_what_the_http_client_raises_becomes_ours(kind: type[BaseException], moment: str) -> None:
    error = instance(kind)
    calling = call_provider(
        a_job(stream=moment == "stream"),
        Target("openai", "m"),
        openai.PROFILE,
        {},
        attempt=1,
        remaining_seconds=10,
        transport=BreakingTransport(error, in_body=moment != "request"),
        settings=ProviderSettings(),
        progress=CallProgress(),
        emit=nobody_reads,
    )

    with pytest.raises(ProviderError) as raised:
        await calling

    assert type(raised.value) is expected(kind)
    assert raised.value.__cause__ is error
    assert "canary" not in str(raised.value.to_fields())


@pytest.mark.parametrize("kind", foreign(), ids=lambda kind: kind.__qualname__)
def test_no_class_is_forgotten(kind: type[BaseException]) -> None:
    assert issubclass(kind, FOREIGN)
    assert type(map_foreign(instance(kind), openai.PROFILE)) is expected(kind)
