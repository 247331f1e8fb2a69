"""The forms of REDIS_URL: what each names, and what is refused without showing what it holds."""

from __future__ import annotations

import pytest

from shared.queue.redis_link import redacted
from shared.queue.redis_url import Cluster, OneServer, Sentinels, UnusableRedisUrl, read_url


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://u:p@h:1/2", "rediss://h:1?ssl_cert_reqs=none", "unix://:p@/tmp/redis.sock?db=3"],
)
def test_one_server_is_named_as_redis_py_names_it(url: str) -> None:
    assert read_url(url) == OneServer(url)


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    place = read_url("redis-cluster://user:p%40ss@a:7000,b,[::1]:7002")

    assert isinstance(place, Cluster)
    assert place.seeds == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert place.url_of(("c", 7003)) == "redis://user:p%40ss@c:7003"
    assert place.url_of(("::2", 7003)) == "redis://user:p%40ss@[::2]:7003"


def test_a_cluster_over_tls_hands_its_options_to_each_node() -> None:
    place = read_url("rediss-cluster://:secret@a:7000?ssl_ca_certs=/ca.pem")

    assert isinstance(place, Cluster)
    assert place.url_of(("b", 7001)) == "rediss://:secret@b:7001?ssl_ca_certs=/ca.pem"


def test_sentinels_are_named_with_the_master_they_watch() -> None:
    place = read_url("redis-sentinel://user:secret@s1,s2:26380/my%20master/4?sentinel_password=o%2Fther")

    assert isinstance(place, Sentinels)
    assert place.addresses == (("s1", 26379), ("s2", 26380))
    assert place.master == "my master"
    assert place.url_of(("10.0.0.1", 6379)) == "redis://user:secret@10.0.0.1:6379/4"
    assert place.sentinel_urls() == ["redis://:o%2Fther@s1:26379", "redis://:o%2Fther@s2:26380"]


def test_sentinels_over_tls_are_spoken_to_over_tls() -> None:
    place = read_url("rediss-sentinel://s1/mymaster")

    assert isinstance(place, Sentinels)
    assert place.sentinel_urls() == ["rediss://s1:26379"]
    assert place.url_of(("m", 6379)) == "rediss://m:6379/0"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://canary@h",
        "redis://u:canary@h:port",
        "redis-cluster:canary",
        "redis-cluster://",
        "redis-cluster://u:canary@",
        "redis-cluster://u:canary@a:7000,",
        "redis-cluster://u:canary@a:7000,b:port",
        "redis-cluster://u:canary@a:0",
        "redis-cluster://u:canary@a:70000",
        "redis-cluster://u:canary@a:7000/1",
        "redis-cluster://u:can/ary@a:7000",
        "redis-sentinel://u:canary@s1:26379",
        "redis-sentinel://u:canary@s1:26379/",
        "redis-sentinel://u:canary@s1:26379/mymaster/first",
        "redis-sentinel://u:canary@s1:26379/mymaster?sentinel_pasword=canary",
        "redis-sentinel://u:canary@[s1/mymaster",
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_shows_nothing_of_it(url: str) -> None:
    with pytest.raises(UnusableRedisUrl) as refused:
        read_url(url)

    said = str(refused.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:canary@h:1/2", "redis://h:1/2"),
        ("redis://u:can/ary@h:1/2", "redis://h:1/2"),
        ("unix://:canary@/tmp/r.sock?db=3", "unix:///tmp/r.sock"),
        ("redis-cluster://u:canary@a:1,b:2", "redis-cluster://a:1,b:2"),
        ("redis-sentinel://u:canary@a:1/m/0?sentinel_password=canary", "redis-sentinel://a:1/m/0"),
    ],
)
def test_what_is_logged_of_a_url_has_no_credentials(url: str, shown: str) -> None:
    assert redacted(url) == shown
