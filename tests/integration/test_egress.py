"""The guard over real sockets and TLS: where it connects, whom it says it asks, and when it gives up."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

import httpcore
import httpx
import pytest

from shared.egress.rules import Cause, EgressFailed, EgressRules
from shared.egress.transport import GuardedTransport, fetch, open_client
from tests.fakes.tls import Authority

HOST = "hooks.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Names:
    """A resolver whose answers are the test's: one list a look-up, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Dialled(httpcore.AsyncNetworkBackend):
    """Notes the address, and connects to nobody or to one local server whatever it is told."""

    def __init__(self, port: int | None = None) -> None:
        self.to: list[str] = []
        self._port = port

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.to.append(host)
        if self._port is None:
            raise httpcore.ConnectError("nobody there")
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self._port)


class Server:
    """Answers each connection with the same bytes; `slowly` waits before the last of them for ever."""

    def __init__(self, says: bytes, *, slowly: bool) -> None:
        self._says = says
        self._slowly = slowly
        self.port = 0
        self.heard: list[bytes] = []
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._says)
            await writer.drain()
            if self._slowly:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed.set()
            writer.close()


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def serve(authority: Authority) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as running:

        async def start(says: bytes = OK, *, slowly: bool = False, tls: str | None = HOST) -> Server:
            server = Server(says, slowly=slowly)
            listening = await asyncio.start_server(
                server.serve, "127.0.0.1", ssl=None if tls is None else authority.server(tls)
            )
            server.port = listening.sockets[0].getsockname()[1]
            await running.enter_async_context(listening)
            return server

        yield start


def to(server: Server, authority: Authority, **rules: float) -> GuardedTransport:
    """A guard whose look-ups end at the local server, which is allowed."""
    return GuardedTransport(
        EgressRules(private_hosts=frozenset({f"{HOST}:{server.port}"}), plain_http=True, **rules),  # type: ignore[arg-type]  # any field of the rules
        look_up=Names(["127.0.0.1"]),
        tls=authority.trusting(),
    )


async def cause_of(asking: Awaitable[object]) -> Cause:
    with pytest.raises(EgressFailed) as failed:
        await asking
    assert str(failed.value) == "The URL could not be reached."
    return failed.value.cause


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["::1"],
        ["::ffff:10.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["fd00:ec2::254"],
        ["169.254.169.254"],
        ["fe80::1%lo"],
        ["8.8.8.8", "10.0.0.1"],
        ["2606:4700::1111", "8.8.8.8", "::1"],
        ["8.8.8.8", "0x7f.1"],
    ],
)
async def test_a_name_with_one_address_that_is_not_public_is_never_dialled(answer: list[str]) -> None:
    dialled = Dialled()
    guard = GuardedTransport(EgressRules(), look_up=Names(answer), dial=dialled)

    assert await cause_of(fetch(f"https://{HOST}/", guard)) is Cause.ADDRESS
    assert dialled.to == []


async def test_a_name_that_is_rebound_after_the_look_up_is_dialled_where_it_was(
    serve: Serve, authority: Authority
) -> None:
    server = await serve()
    names, dialled = Names(["8.8.8.8"], ["127.0.0.1"]), Dialled(server.port)
    guard = GuardedTransport(EgressRules(), look_up=names, dial=dialled, tls=authority.trusting())

    assert (await fetch(f"https://{HOST}/", guard)).text == "hello"
    assert (names.asked, dialled.to) == ([HOST], ["8.8.8.8"])

    # Nothing is remembered: the next request sees what the name has become.
    assert await cause_of(fetch(f"https://{HOST}/", guard)) is Cause.ADDRESS
    assert dialled.to == ["8.8.8.8"]


async def test_the_server_hears_and_proves_the_name_of_the_url(serve: Serve, authority: Authority) -> None:
    server, other = await serve(), await serve(tls="other.example")

    answer = await fetch(f"https://{HOST}:{server.port}/keys?a=b", to(server, authority))

    assert (answer.status_code, answer.text) == (200, "hello")
    (heard,) = server.heard
    assert heard.startswith(b"GET /keys?a=b HTTP/1.1\r\n")
    assert f"Host: {HOST}:{server.port}\r\n".encode() in heard
    assert b"Accept-Encoding: identity\r\n" in heard
    assert await cause_of(fetch(f"https://{HOST}:{other.port}/", to(other, authority))) is Cause.CONNECTION
    assert other.heard == []


async def test_a_redirect_to_metadata_ends_there(serve: Serve, authority: Authority) -> None:
    for tls in (HOST, None):
        server = await serve(
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", tls=tls
        )
        url = f"http{'s' if tls else ''}://{HOST}:{server.port}/"

        assert await cause_of(fetch(url, to(server, authority))) is Cause.REDIRECT
        # Nor for a client that would follow one.
        async with httpx.AsyncClient(transport=to(server, authority), follow_redirects=True) as client:
            assert await cause_of(client.get(url)) is Cause.REDIRECT


async def test_no_proxy_of_the_environment_is_used(
    serve: Serve, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = await serve(), await serve(tls=None)
    for name in ("HTTPS_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")

    assert (await fetch(f"https://{HOST}:{server.port}/", to(server, authority))).text == "hello"
    assert proxy.heard == []


async def test_an_answer_is_cut_at_its_size_told_or_not(serve: Serve, authority: Authority) -> None:
    for head in (b"Content-Length: 1000\r\n", b"Connection: close\r\n"):
        server = await serve(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + b"x" * 1000)
        url = f"https://{HOST}:{server.port}/"

        assert len((await fetch(url, to(server, authority, max_bytes=1000))).content) == 1000
        assert await cause_of(fetch(url, to(server, authority, max_bytes=999))) is Cause.SIZE


async def test_an_answer_that_says_that_it_is_too_long_is_not_waited_for(
    serve: Serve, authority: Authority
) -> None:
    server = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", slowly=True)
    guard = to(server, authority, max_bytes=999)

    assert await cause_of(fetch(f"https://{HOST}:{server.port}/", guard)) is Cause.SIZE


async def test_a_packed_answer_is_not_unpacked(serve: Serve, authority: Authority) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    server = await serve(head + bomb)

    assert await cause_of(fetch(f"https://{HOST}:{server.port}/", to(server, authority))) is Cause.ENCODING


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\n", OK[:-1]])
async def test_an_answer_that_does_not_end_is_given_up(
    serve: Serve, authority: Authority, says: bytes
) -> None:
    server = await serve(says, slowly=True)
    guard = to(server, authority, total_seconds=1.0)

    assert await cause_of(fetch(f"https://{HOST}:{server.port}/", guard)) is Cause.TIME
    await server.closed.wait()


async def test_a_handshake_or_look_up_that_does_not_end_is_given_up(
    serve: Serve, authority: Authority
) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    plain = await serve(b"", slowly=True, tls=None)  # says nothing to the client's hello
    guard = to(plain, authority, total_seconds=0.2)
    assert await cause_of(fetch(f"https://{HOST}:{plain.port}/", guard)) is Cause.TIME

    guard = GuardedTransport(EgressRules(connect_seconds=0.05), look_up=never)
    assert await cause_of(fetch(f"https://{HOST}/", guard)) is Cause.TIME


@pytest.mark.parametrize(
    "says", [b"rubbish\r\n\r\n", b"", OK[:-1], b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000]
)
async def test_what_is_no_whole_answer_is_a_failure(serve: Serve, authority: Authority, says: bytes) -> None:
    server = await serve(says)

    assert await cause_of(fetch(f"https://{HOST}:{server.port}/", to(server, authority))) is Cause.CONNECTION


async def test_each_address_is_tried_and_a_refusal_says_no_more_than_anything_else() -> None:
    dialled = Dialled()
    names = Names(["8.8.8.8", "2606:4700::1111"])
    guard = GuardedTransport(EgressRules(), look_up=names, dial=dialled)

    assert await cause_of(fetch(f"https://{HOST}/", guard)) is Cause.CONNECTION
    assert dialled.to == ["8.8.8.8", "2606:4700::1111"]


async def test_a_name_without_addresses_is_a_failure() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    assert await cause_of(fetch(f"https://{HOST}/", GuardedTransport(EgressRules(), look_up=unknown))) is (
        Cause.LOOKUP
    )
    nothing = GuardedTransport(EgressRules(), look_up=Names([]))
    assert await cause_of(fetch(f"https://{HOST}/", nothing)) is Cause.LOOKUP


async def test_the_machines_own_resolver_is_no_way_round() -> None:
    rules = EgressRules(private_hosts=frozenset({"0x7f.1", "2130706433", "127.1", "0"}))

    for host in ("0x7f.1", "2130706433", "127.1", "0"):
        # Allowed by name or not: these are no names.
        assert await cause_of(fetch(f"https://{host}/", GuardedTransport(rules))) is Cause.HOST
    assert await cause_of(fetch("https://localhost/", GuardedTransport(EgressRules()))) is Cause.HOST


async def test_a_body_is_posted_and_judged_like_any_request(serve: Serve, authority: Authority) -> None:
    server = await serve()
    async with open_client(to(server, authority)) as client:
        answer = await client.post(f"https://{HOST}:{server.port}/hook", json={"a": 1})
        assert await cause_of(client.post("https://127.0.0.1/", json={})) is Cause.ADDRESS
        assert await cause_of(client.get("http://[::1]/")) is Cause.ADDRESS

    assert answer.status_code == 200
    assert server.heard[0].startswith(b"POST /hook HTTP/1.1\r\n")
