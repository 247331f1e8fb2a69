"""A broker over HTTP, here or far away: for commands that are its clients and need nothing else of it.

Exit codes of these commands:

    0    done                                2    not understood: wrong options or files
    1    the work itself failed              3    the broker was not reached, or refused
    75   not ended within the time given     130  interrupted
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Final, NoReturn

import httpx
import typer

from cli.configuration import fail
from shared.settings import environment_variable

KEY_VARIABLE: Final = "HEADRACE_API_KEY"
URL_VARIABLE: Final = "HEADRACE_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8000"

FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNFINISHED: Final = os.EX_TEMPFAIL
INTERRUPTED: Final = 130

PATIENCE_SECONDS: Final = 600.0
"""How long a wait goes on without a broker that answers: it may be restarting."""
_BACKOFF_SECONDS: Final = 0.25
_BACKOFF_CAP_SECONDS: Final = 10.0
_TRIES: Final = 3
_PASSING: Final = frozenset({429, 500, 502, 503, 504})
"""Another try may be answered otherwise: a broker, or what is in front of it, that starts or is busy."""
# A connection that is there may be slow to answer: uploads are on disk first, and others may be long polls.
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, pool=None)

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help=f"The broker's address. Default: {URL_VARIABLE}, else {DEFAULT_URL}. "
        f"The key is read from {KEY_VARIABLE} only: other users of this host can see command lines.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Refused(Exception):
    """The broker answered, and not with what was asked. The message is one sentence with the code."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(f"{_printable(message)} ({f'{status} {code}' if code else status})")
        self.status, self.code = status, code

    @property
    def may_pass(self) -> bool:
        return self.status in _PASSING


class Unreachable(Exception):
    """No answer, or none that ended."""

    may_pass = True


class Broker:
    """Its calls raise Refused and Unreachable."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, *, patience: float = 0.0, **params: Any) -> httpx.Response:
        """`patience`: seconds without a broker that answers before this gives up, however often it tries."""
        return self._repeat(lambda: self._send("GET", path, params=params), patience)

    def post(
        self, path: str, *, json: Any = None, key: str | None = None, repeats: bool = False
    ) -> httpx.Response:
        """`key`: an Idempotency-Key, under which it may be sent again after a connection that broke.

        `repeats`: whether it may be without one, for what comes to the same when done twice.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        send = partial(self._send, "POST", path, json=json, headers=headers)
        return self._repeat(send, 0.0, repeats=repeats or key is not None)

    def post_file(self, path: str, fields: Mapping[str, str], file: tuple[str, Any]) -> httpx.Response:
        return self._send("POST", path, data=fields, files={"file": file})

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], *, quiet_seconds: float
    ) -> Iterator[httpx.Response]:
        """`quiet_seconds`: how long nothing may come before the connection counts as broken."""
        timeout = httpx.Timeout(quiet_seconds, connect=10.0, pool=None)
        with _told(), self._client.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            yield answer

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        with _told():
            answer = self._client.request(method, path, **more)
        _check(answer)
        return answer

    def _repeat(
        self, send: Callable[[], httpx.Response], patience: float, *, repeats: bool = True
    ) -> httpx.Response:
        pauses, tries = Pauses(patience), 0
        while True:
            try:
                return send()
            except Unreachable:
                tries += 1
                if not repeats or (tries >= _TRIES and not pauses.has_patience):
                    raise
                pauses.pause()
            except Refused as refused:
                if not refused.may_pass or not pauses.has_patience:
                    raise
                pauses.pause()


class Pauses:
    """Ever longer ones while a broker does not answer, until the patience is spent."""

    def __init__(self, patience: float) -> None:
        self._until = time.monotonic() + patience
        self._next = _BACKOFF_SECONDS

    @property
    def has_patience(self) -> bool:
        return time.monotonic() < self._until

    def pause(self) -> None:
        # With jitter: whoever waits for a broker that restarts does not wait alone.
        time.sleep(self._next * (0.5 + secrets.randbelow(1000) / 2000))
        self._next = min(_BACKOFF_CAP_SECONDS, self._next * 2)


@contextmanager
def broker_or_exit(url: str | None) -> Iterator[Broker]:
    """What goes wrong in the block with the broker ends the command, in one sentence."""
    base = _address_or_exit(url or environment_variable(URL_VARIABLE) or DEFAULT_URL)
    key = (environment_variable(KEY_VARIABLE) or "").strip()
    if not key or not key.isascii() or not key.isprintable():
        fail(f"{KEY_VARIABLE}: is not set to an API key. `headrace keys create` makes one.", USAGE)
    client = httpx.Client(
        base_url=base,
        headers={"Authorization": f"Bearer {key}", "User-Agent": "headrace-cli"},
        timeout=_TIMEOUT,
        follow_redirects=False,
        # A proxy is of no use on the way to this very host.
        trust_env=not _is_here(base.host),
    )
    with client:
        try:
            yield Broker(client)
        except Refused as refused:
            fail(str(refused), REFUSED)
        except Unreachable as unreachable:
            fail(f"{base} cannot be reached: {unreachable}.", REFUSED)


def interrupted(sentence: str) -> NoReturn:
    fail(f"\n{sentence}", INTERRUPTED)


def notes_or_exit(written: list[str] | None) -> dict[str, str] | None:
    notes: dict[str, str] = {}
    for each in written or ():
        name, equals, text = each.partition("=")
        if not name or not equals:
            fail("--metadata: takes NAME=TEXT.", USAGE)
        notes[name] = text
    return notes or None


def shown(text: object, *, width: int = 100) -> str:
    """As a terminal may show what others wrote, in one line."""
    line = _printable("" if text is None else str(text))
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _address_or_exit(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        fail("--url: is no URL.", USAGE)
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment:
        fail("--url: takes http:// or https://, a host and perhaps a port and a path.", USAGE)
    if url.userinfo:
        fail(f"--url: must not hold a name or a password; the key goes into {KEY_VARIABLE}.", USAGE)
    return url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as exc:
        raise Unreachable("it took too long to answer") from exc
    except httpx.HTTPError as exc:
        raise Unreachable(shown(exc, width=200) or type(exc).__name__) from exc


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    if answer.is_redirect:
        raise Refused(answer.status_code, None, "The address leads elsewhere, and the key goes nowhere else.")
    code, message = error_of(_json(answer))
    raise Refused(answer.status_code, code, message or "The broker, or what is in front of it, refused.")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def error_of(body: Any) -> tuple[str | None, str | None]:
    """Code and sentence of an error in any of the forms that routes have."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None, None
    details = error.get("details")
    code = error.get("code") or (isinstance(details, dict) and details.get("code")) or error.get("type")
    message = error.get("message")
    return (str(code) if code else None), (str(message) if message else None)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()
