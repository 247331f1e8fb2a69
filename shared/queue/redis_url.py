"""The forms of REDIS_URL.

| form | names |
| --- | --- |
| `redis://`, `rediss://`, `unix://` | one server, as redis-py reads it |
| `redis-cluster://[user:password@]host:port,host:port` | some nodes of a Redis Cluster; the rest are learnt |
| `redis-sentinel://[user:password@]host:port,host:port/name[/db]` | sentinels, and the master they watch |

`rediss-cluster://` and `rediss-sentinel://` are the same over TLS. User and password are those of the
servers; sentinels that want some get them as `?sentinel_username=...&sentinel_password=...`. Any other
option behind the `?` goes into the URL of each server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.asyncio.connection import parse_url

Address = tuple[str, int]

_ONE_SERVER: Final = ("redis", "rediss", "unix")
_CLUSTER: Final = {"redis-cluster": "redis", "rediss-cluster": "rediss"}
_SENTINEL: Final = {"redis-sentinel": "redis", "rediss-sentinel": "rediss"}
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26_379


class UnusableRedisUrl(ValueError):
    """Says what is wrong with it, and nothing of what it holds."""


@dataclass(frozen=True, slots=True)
class OneServer:
    url: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """`seeds`: nodes to ask for the others."""

    seeds: tuple[Address, ...]
    scheme: str
    userinfo: str
    query: str

    def url_of(self, node: Address) -> str:
        return _url(self.scheme, self.userinfo, node, "", self.query)

    def shown(self) -> str:
        """As it may be logged."""
        return ",".join(map(shown, self.seeds))


@dataclass(frozen=True, slots=True)
class Sentinels:
    """`master`: the name under which they watch it."""

    addresses: tuple[Address, ...]
    master: str
    db: int
    scheme: str
    userinfo: str
    query: str
    sentinel_userinfo: str

    def url_of(self, server: Address) -> str:
        return _url(self.scheme, self.userinfo, server, f"/{self.db}", self.query)

    def sentinel_urls(self) -> list[str]:
        return [_url(self.scheme, self.sentinel_userinfo, at, "", self.query) for at in self.addresses]

    def shown(self) -> str:
        return ",".join(map(shown, self.addresses))


def read_url(url: str) -> OneServer | Cluster | Sentinels:
    """Raises UnusableRedisUrl."""
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if scheme in _ONE_SERVER and separator:
        try:
            parse_url(url)
        except ValueError as exc:
            raise UnusableRedisUrl("is not a URL that redis-py can read.") from exc
        return OneServer(url)
    if scheme in _CLUSTER and separator:
        return _read_cluster(_CLUSTER[scheme], url)
    if scheme in _SENTINEL and separator:
        return _read_sentinels(_SENTINEL[scheme], url)
    raise UnusableRedisUrl(
        "must start with redis://, rediss://, unix://, redis-cluster://, rediss-cluster://, "
        "redis-sentinel:// or rediss-sentinel://."
    )


def shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read_cluster(scheme: str, url: str) -> Cluster:
    userinfo, hosts, path, query = _split(url)
    if path not in {"", "/", "/0"}:
        raise UnusableRedisUrl("a cluster has database 0 only, so nothing may follow its nodes.")
    return Cluster(_addresses(hosts, _REDIS_PORT), scheme, userinfo, query)


def _read_sentinels(scheme: str, url: str) -> Sentinels:
    userinfo, hosts, path, query = _split(url)
    master, _, db = path.removeprefix("/").partition("/")
    if not master:
        raise UnusableRedisUrl("the name of the master must follow the sentinels: .../mymaster.")
    if db and not (db.isascii() and db.isdigit()):
        raise UnusableRedisUrl("what follows the name of the master is the number of a database.")
    options = parse_qsl(query, keep_blank_values=True)
    of_sentinels = {name: value for name, value in options if name.startswith("sentinel_")}
    user, password = (of_sentinels.pop(f"sentinel_{what}", "") for what in ("username", "password"))
    if of_sentinels:
        raise UnusableRedisUrl("of sentinels it may say sentinel_username and sentinel_password, no more.")
    return Sentinels(
        addresses=_addresses(hosts, _SENTINEL_PORT),
        master=unquote(master),
        db=int(db or 0),
        scheme=scheme,
        userinfo=userinfo,
        query=urlencode([(name, value) for name, value in options if not name.startswith("sentinel_")]),
        sentinel_userinfo=f"{quote(user, safe='')}:{quote(password, safe='')}" if password else "",
    )


def _split(url: str) -> tuple[str, str, str, str]:
    """User and password, hosts, path, options."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise UnusableRedisUrl("is not a URL.") from exc
    userinfo, _, hosts = parts.netloc.rpartition("@")
    return userinfo, hosts, parts.path, parts.query


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    return tuple(_address(host, default_port) for host in hosts.split(","))


def _address(text: str, default_port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UnusableRedisUrl("each of its hosts must be host:port.") from exc
    # A host that urlsplit cuts short is not one: it would be looked for somewhere else.
    if not host or parts.netloc != text or port == 0:
        raise UnusableRedisUrl("each of its hosts must be host:port.")
    return host, port or default_port


def _url(scheme: str, userinfo: str, address: Address, path: str, query: str) -> str:
    credentials = f"{userinfo}@" if userinfo else ""
    return f"{scheme}://{credentials}{shown(address)}{path}{f'?{query}' if query else ''}"
