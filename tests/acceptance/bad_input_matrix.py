"""The bad-input matrix as data: what is sent, and what has to be answered.

Each case goes to both chat routes. Row numbers count the lines of the matrix:

     1 not JSON                      11 headers too large or too many
     2 too complex                   12 methods and paths
     3 no finite number, no text     13 Host
     4 duplicate keys                14 unknown model or provider
     5 unknown fields                15 multipart
     6 wrong types and ranges        16 pagination
     7 body too large                17 Idempotency-Key
     8 Content-Length lies           18 Last-Event-ID
     9 Content-Encoding              19 ids of another tenant
    10 Content-Type                  20 roles
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tests.acceptance.bad_input import CANARY, Case, Route, Writer, answers

ROWS: Final = range(1, 21)
NOT_APPLICABLE: Final = {
    20: "Roles do not exist yet: a key may call every route there is, so no call lacks one.",
}
ELSEWHERE: Final = {
    19: "Needs the job of another account: test_a_job_of_another_account_does_not_exist.",
}

LIMIT: Final = 10 * 1024 * 1024
INVALID_JSON: Final = answers(400, code="invalid_json")
TOO_COMPLEX: Final = answers(400, code="too_complex")
BAD_REQUEST: Final = answers(400, code="bad_request")
UNSUPPORTED: Final = answers(415, code="unsupported_content")
TOO_LARGE: Final = answers(413, kind="payload_too_large", code="payload_too_large")
HEADERS_TOO_LARGE: Final = answers(431, code="headers_too_large")
NOTHING_THERE: Final = answers(404, kind="not_found_error", code="not_found")
NO_SUCH_MODEL: Final = answers(404, kind="not_found_error", code="model_not_found", param="model")
GOOD: Final = answers(200)
CLOSED_OR_BAD: Final = answers(0, 400, 408)


def cases(route: Route, api_key: str) -> Iterator[Case]:
    writer = Writer(route, api_key)
    for chapter in (_json, _complexity, _values, _fields, _framing, _headers, _targets, _names, _ids):
        yield from chapter(writer)


def _json(write: Writer) -> Iterator[Case]:
    good = json.dumps(write.route.chat()).encode()
    yield write.body(1, "no JSON", f"give me {CANARY}".encode(), INVALID_JSON)
    yield write.body(1, "truncated", good[:-7], INVALID_JSON)
    yield write.body(1, "empty", b"", INVALID_JSON)
    yield write.body(1, "white space", b" \r\n\t ", INVALID_JSON)
    yield write.body(1, "invalid UTF-8", good.replace(b"Hello", b"\xc3\x28\xff"), INVALID_JSON)
    yield write.body(1, "overlong UTF-8", good.replace(b"Hello", b"\xc0\xaf"), INVALID_JSON)
    yield write.body(1, "surrogate in UTF-8", good.replace(b"Hello", b"\xed\xa0\x80"), INVALID_JSON)
    yield write.body(1, "UTF-16", good.decode().encode("utf-16"), INVALID_JSON)
    yield write.body(1, "UTF-16 without a mark", good.decode().encode("utf-16-le"), INVALID_JSON)
    yield write.body(1, "byte order mark", b"\xef\xbb\xbf" + good, INVALID_JSON)
    yield write.body(1, "two documents", good + good, INVALID_JSON)
    yield write.body(1, "a document and a line", good + b"\n{}", INVALID_JSON)
    yield write.body(1, "single quotes", good.replace(b'"', b"'"), INVALID_JSON)
    yield write.body(1, "a comment", b"/* hi */" + good, INVALID_JSON)
    yield write.body(1, "a trailing comma", good[:-1] + b",}", INVALID_JSON)
    yield write.body(1, "a raw control character", good.replace(b"Hello", b"He\x01llo"), INVALID_JSON)
    yield write.body(1, "a leading zero", write.route.chat_with(b'"seed":007'), INVALID_JSON)


def _complexity(write: Writer) -> Iterator[Case]:
    deep = write.route.chat_with
    yield write.body(2, "33 levels of lists", deep(b'"x":' + b"[" * 32 + b"]" * 32), TOO_COMPLEX)
    yield write.body(2, "33 levels of objects", deep(b'"x":' + b'{"a":' * 32 + b"1" + b"}" * 32), TOO_COMPLEX)
    yield write.body(2, "200,000 brackets", b"[" * 200_000, answers(400))
    yield write.body(2, "200,000 braces", b'{"a":' * 200_000, answers(400))
    yield write.body(2, "100,001 values", deep(b'"x":[' + b"0," * 100_000 + b"0]"), TOO_COMPLEX)
    yield write.body(2, "100,001 lists", deep(b'"x":[' + b"[]," * 100_000 + b"[]]"), TOO_COMPLEX)
    yield write.body(2, "a key of 257 characters", deep(b'"%b":1' % (b"k" * 257)), TOO_COMPLEX)
    yield write.body(2, "a deep key of 257 characters", deep(b'"x":[{"%b":1}]' % (b"k" * 257)), TOO_COMPLEX)
    yield write.body(2, "an integer of 4,301 digits", deep(b'"seed":' + b"9" * 4_301), TOO_COMPLEX)
    yield write.body(2, "an integer of 1 MB", deep(b'"seed":' + b"9" * 1_000_000), TOO_COMPLEX)


def _values(write: Writer) -> Iterator[Case]:
    with_member = write.route.chat_with
    numbers = {"NaN": b"NaN", "Infinity": b"Infinity", "-Infinity": b"-Infinity", "1e999": b"1e999"}
    for name, number in numbers.items():
        yield write.body(3, name, with_member(b'"temperature":' + number), answers(422, param="temperature"))
        inside = with_member(b'"x":{"y":[1,%b]}' % number)
        yield write.body(3, f"{name} deep inside", inside, answers(422, param="x.y[1]"))
    yield write.body(
        3, "-1e999", with_member(b'"presence_penalty":-1e999'), answers(422, param="presence_penalty")
    )
    texts = {"half of a surrogate pair": rb"\ud83d", "the other half": rb"\ude00", "NUL": rb"a\u0000b"}
    for name, text in texts.items():
        said = json.dumps(write.route.chat()).encode().replace(b"Hello", text)
        yield write.body(3, name, said, answers(422, param="messages[0].content"))
        yield write.body(3, f"{name} in a key", with_member(b'"%b":1' % text), answers(422))
    yield write.body(4, "a key twice", with_member(b'"model":"gpt-4o"'), INVALID_JSON)
    yield write.body(4, "a key twice, escaped", with_member(rb'"\u006dodel":"gpt-4o"'), INVALID_JSON)
    yield write.body(4, "an unknown key twice", with_member(b'"x":1,"x":1'), INVALID_JSON)
    nested = b'"x":{"y":[{"z":1,"z":2}]}'
    yield write.body(4, "a deep key twice", with_member(nested), INVALID_JSON)
    yield write.body(5, "unknown fields pass through", write.route.chat(frobnicate={"a": [1]}), GOOD)
    odd = write.route.chat(**{"__proto__": {"a": 1}, "constructor": 1, "a.b[0]": None, "": 1})
    yield write.body(5, "unknown fields with odd names", odd, GOOD)


def _fields(write: Writer) -> Iterator[Case]:
    for name, document in {"a list": [CANARY], "a text": CANARY, "a number": 1, "null": None}.items():
        yield write.body(6, f"{name} for a body", json.dumps(document).encode(), answers(422))
    user = {"role": "user", "content": CANARY}
    wrong: dict[str, dict[str, Any]] = {
        "model": {"model": 7},
        "messages": {"messages": CANARY},
        "messages[0]": {"messages": [CANARY]},
        "messages[0].role": {"messages": [{"role": CANARY, "content": CANARY}]},
        "messages[0].content": {"messages": [{"role": "user", "content": 7}]},
        "messages[1].content[0].text": {
            "messages": [user, {"role": "user", "content": [{"type": "text", "text": 7}]}]
        },
        "messages[0].tool_call_id": {"messages": [{"role": "tool", "content": CANARY}]},
        "temperature": {"temperature": CANARY},
        "top_p": {"top_p": [CANARY]},
        "n": {"n": 1.5},
        "max_tokens": {"max_tokens": CANARY},
        "stream": {"stream": CANARY},
        "stop[0]": {"stop": [7]},
        "logit_bias.a": {"logit_bias": {"a": CANARY}},
        "metadata.a": {"metadata": {"a": {"b": CANARY}}},
        "tools[0]": {"tools": [CANARY]},
        "tools[0].function.name": {"tools": [{"type": "function", "function": {"name": {"a": CANARY}}}]},
        "response_format.type": {"response_format": {"type": {"a": CANARY}}},
        "stream_options.include_usage": {"stream_options": {"include_usage": CANARY}},
    }
    for path, fields in wrong.items():
        yield write.body(6, f"wrong type of {path}", write.route.chat(**fields), answers(422, param=path))
    out_of_range: dict[str, dict[str, Any]] = {
        "model": {"model": "m" * 300},
        "messages": {"messages": []},
        "temperature": {"temperature": 2.01},
        "top_p": {"top_p": -0.01},
        "n": {"n": 0},
        "max_tokens": {"max_tokens": 0},
        "max_completion_tokens": {"max_completion_tokens": -1},
        "frequency_penalty": {"frequency_penalty": 3},
        "top_logprobs": {"top_logprobs": 21},
        "stop": {"stop": [CANARY] * 5},
        "metadata": {"metadata": {f"{CANARY}{n}": "x" for n in range(17)}},
        "logit_bias.a": {"logit_bias": {"a": 101}},
    }
    for path, fields in out_of_range.items():
        yield write.body(6, f"{path} out of range", write.route.chat(**fields), answers(422, param=path))
    many = write.route.chat(messages=[user] * 10_001)
    yield write.body(6, "10,001 messages", many, answers(422, param="messages"))
    for name in ("model", "messages"):
        without = {key: value for key, value in write.route.chat().items() if key != name}
        yield write.body(6, f"no {name}", without, answers(422, param=name))
    yield write.body(6, "an empty object", b"{}", answers(422))


def _framing(write: Writer) -> Iterator[Case]:
    body = json.dumps(write.route.chat()).encode()
    chunked = (b"Transfer-Encoding", b"chunked")

    def length(value: bytes) -> tuple[bytes, bytes]:
        return (b"Content-Length", value)

    over = write.framed(length(b"%d" % (LIMIT + 1)), body=b"x" * 1_000)
    yield write.raw(7, "one byte too many by Content-Length", over, answer=TOO_LARGE, closes=True)
    vast = write.framed(length(b"9" * 30), body=b"")
    yield write.raw(7, "a Content-Length of 30 digits", vast, answer=answers(400, 413), closes=True)
    full = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    yield write.raw(
        7, "one byte too many by counting chunks",
        write.framed(chunked, body=b""), *[full] * 10, b"1\r\n \r\n", answer=TOO_LARGE, closes=True,
    )  # fmt: skip
    yield write.raw(8, "Content-Length too short", write.framed(length(b"9"), body=body), answer=INVALID_JSON)
    yield write.raw(
        8, "Content-Length too long", write.framed(length(b"%d" % (len(body) + 9)), body=body),
        answer=CLOSED_OR_BAD, then_eof=True,
    )  # fmt: skip
    lies = {
        "Content-Length and chunked": (length(b"%d" % len(body)), chunked),
        "chunked and Content-Length": (chunked, length(b"%d" % len(body))),
        "two lengths": (length(b"%d" % len(body)), length(b"9")),
        "one length twice": (length(b"%d" % len(body)), length(b"%d" % len(body))),
        "a list of lengths": (length(b"%d, %d" % (len(body), len(body))),),
        "a negative length": (length(b"-1"),),
        "a signed length": (length(b"+%d" % len(body)),),
        "a length in hex": (length(b"0x%x" % len(body)),),
        "a length of words": (length(CANARY.encode()),),
        "gzip and chunked": ((b"Transfer-Encoding", b"gzip, chunked"),),
        "chunked twice": (chunked, chunked),
        "an unknown coding": ((b"Transfer-Encoding", CANARY.encode()),),
        "chunked in capitals behind a tab": ((b"Transfer-Encoding", b"\x0bchunked"),),
    }
    for name, headers in lies.items():
        yield write.raw(8, name, write.framed(*headers, body=body), answer=answers(400), closes=True)
    for name, chunk in {
        "a chunk size that is none": b"zz\r\n",
        "a negative chunk size": b"-5\r\nhello\r\n",
        "a chunk longer than its size": b"2\r\nhello\r\n0\r\n\r\n",
        "a chunk size of 20 digits": b"f" * 20 + b"\r\n",
    }.items():
        yield write.raw(8, name, write.framed(chunked, body=chunk), answer=answers(400), closes=True)


def _headers(write: Writer) -> Iterator[Case]:
    for coding in (b"gzip", b"br", b"deflate", b"zstd", b"identity, gzip", b"x-" + CANARY.encode()):
        yield write.headers(9, f"{coding.decode()} coded", [(b"Content-Encoding", coding)], UNSUPPORTED)
    types = {
        "no type": None,
        "plain text": b"text/plain",
        "a form": b"application/x-www-form-urlencoded",
        "another JSON": b"application/json-seq",
        "a patch": b"application/merge-patch+json",
        "an empty type": b"",
        "a type nobody knows": CANARY.encode(),
    }
    for name, value in types.items():
        given = None if value is None else (b"Content-Type", value)
        yield write.headers(10, name, [], UNSUPPORTED, content_type=given)
    secret = CANARY.encode()
    yield write.headers(
        11, "a header of 17 KB", [(b"X-Long", secret * 1_000)], HEADERS_TOO_LARGE, closes=True
    )
    yield write.headers(
        11, "a header name of 17 KB", [(secret * 1_000, b"x")], HEADERS_TOO_LARGE, closes=True
    )
    many = [(b"X-%d" % n, secret) for n in range(101)]
    yield write.headers(11, "more than 100 headers", many, HEADERS_TOO_LARGE, closes=True)
    for name, header in {
        "a header without a name": (b"", b"x"),
        "a space before the colon": (b"X-Odd ", b"x"),
        "a control character": (b"X-Odd", b"a\x00b"),
    }.items():
        yield write.headers(11, name, [header], answers(400), closes=True)
    for part in (
        b'name="file"',
        b'name="file"; filename="../../etc/passwd"',
        b'name="file"; filename="a.zip"',
    ):
        form = b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n\r\nPK\x03\x04\r\n--b--\r\n"
        multipart = (b"Content-Type", b"multipart/form-data; boundary=b")
        name = f"multipart {part.decode()}"
        yield write.headers(15, name, [], UNSUPPORTED, body=form, content_type=multipart)
    parts = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 10_000 + b"--b--\r\n"
    multipart = (b"Content-Type", b"multipart/form-data; boundary=b")
    yield write.headers(15, "10,000 parts", [], UNSUPPORTED, body=parts, content_type=multipart)
    long = b"--b\r\nContent-Disposition: form-data; " + b"x" * 1_000_000
    yield write.headers(15, "a part header of 1 MB", [], UNSUPPORTED, body=long, content_type=multipart)


def _targets(write: Writer) -> Iterator[Case]:
    path = write.route.value
    not_allowed = answers(405, code="method_not_allowed")
    for method in (b"GET", b"PUT", b"DELETE", b"PATCH"):
        yield write.headers(12, method.decode(), [], not_allowed, method=method)
    yield write.headers(12, "OPTIONS", [], answers(404, 405), method=b"OPTIONS")
    yield write.headers(12, "TRACE", [], answers(400, 405), method=b"TRACE")
    yield write.headers(12, "CONNECT", [], answers(400, 405), method=b"CONNECT")
    yield write.headers(
        12, "QWERTY", [], answers(400, 404, 405), method=b"QWERTY", closes=True, form=Route.UNIFIED
    )
    yield write.headers(
        12,
        "post in small letters",
        [],
        answers(400, 404, 405),
        method=b"post",
        closes=True,
        form=Route.UNIFIED,
    )
    stem = path.rpartition(b"/")[0]
    for name, target in {
        "a parent folder": stem + b"/../.." + path,
        "an escaped parent folder": stem + b"/%2e%2e/etc/passwd",
        "a current folder": stem + b"/." + path[len(stem) :],
        "two slashes": stem + b"/" + path[len(stem) :],
        "a slash at the end": path + b"/",
        "something behind": path + b"/" + CANARY.encode(),
        "a semicolon": path + b";a=b",
    }.items():
        yield write.headers(12, name, [], answers(404, kind="not_found_error"), target=target)
    yield write.headers(12, "a NUL", [], answers(400, 404, kind=None), target=path + b"%00")
    yield write.headers(12, "a line break", [], answers(400, 404, kind=None), target=path + b"%0d%0aX-A:%20b")
    yield write.headers(12, "a backslash", [], answers(400, 404, kind=None), target=path + b"%5c..")
    yield write.headers(12, "invalid UTF-8", [], answers(400, 404, kind=None), target=path + b"%ff%fe")
    yield write.headers(
        12, "a path of 5,000 characters", [], answers(400, 404, kind=None), target=path + b"/" + b"a" * 5_000
    )
    yield write.headers(12, "a query of 5,000 characters", [], GOOD, target=path + b"?" + b"a" * 5_000)
    for name, host in {
        "no Host": None,
        "an empty Host": b"",
        "a Host with a path": b"a/b?c",
        "a Host with a user": b"user@broker.example",
        "a Host with a space": b"broker .example",
        "a Host with a port of words": b"broker.example:" + CANARY.encode(),
        "a Host beyond ASCII": "brøker.example".encode(),
    }.items():
        yield write.headers(13, name, [], BAD_REQUEST, host=host, closes=True)
    yield write.headers(13, "two Hosts", [(b"Host", b"other.example")], BAD_REQUEST, closes=True)
    absolute = b"http://other.example" + path
    yield write.headers(
        13, "an absolute target", [], BAD_REQUEST, target=absolute, closes=True, form=Route.UNIFIED
    )
    yield write.headers(
        13,
        "an absolute target without a host",
        [],
        answers(400),
        target=b"http:" + path,
        closes=True,
        form=Route.UNIFIED,
    )
    yield write.headers(16, "a page of a billion", [], GOOD, target=path + b"?limit=1000000000&after=%25_")


def _names(write: Writer) -> Iterator[Case]:
    chat = write.route.chat
    if write.route is Route.OPENAI:
        for name in ("nobody-s-model", "nobody/gpt-4o", "gpt-4o-mini/", "/", "openai/", "a/b/c/d"):
            yield write.body(14, f"the model {name}", chat(model=name), NO_SUCH_MODEL)
    else:
        # With a provider named, any model is that provider's to know; this one knows them all.
        absent = answers(404, kind="not_found_error", code="not_found", param="provider")
        yield write.body(14, "an unknown provider", chat(provider="nobody"), absent)
        odd = answers(422, param="provider")
        for name in ("Open AI", "../openai", "OPENAI", "", "x" * 65):
            yield write.body(14, f"the provider {name[:9]!r}", chat(provider=name), odd)
        gone = chat(messages=[{"role": "user", "content": '!script {"status": 404}'}])
        theirs = answers(404, kind="provider_error", code="model_not_found")
        yield write.body(14, "a model the provider does not know", gone, theirs)
    for name in ("", "gpt 4o", "gpt-4o\n", "gpt-4ö", "m" * 257):
        yield write.body(14, f"the model {name[:9]!r}", chat(model=name), answers(422, param="model"))


def _ids(write: Writer) -> Iterator[Case]:
    bad_key = answers(400, code="bad_request", param="Idempotency-Key")
    for name, key in {
        "empty": b"",
        "256 characters": b"k" * 256,
        "10 KB": b"k" * 10_000,
        "with a space": CANARY.encode() + b" x",
        "beyond ASCII": "ключ".encode(),
    }.items():
        yield write.headers(17, f"a key {name}", [(b"Idempotency-Key", key)], bad_key)
    for name, key in {"a control character": b"a\x01b", "DEL": b"a\x7fb", "a NUL": b"a\x00b"}.items():
        yield write.headers(17, f"a key with {name}", [(b"Idempotency-Key", key)], answers(400))
    stream = write.route.chat(stream=True)
    forged = answers(422, param="Last-Event-ID")
    job = b"job_" + b"0" * 32
    for event_id in (
        CANARY.encode(), b"1", b":", b"", job, job + b":", job + b":-1", job + b":x", job + b":1.5",
        job + b":" + b"9" * 10, job.upper() + b":1", b"job_" + b"g" * 32 + b":1", job + b"0:1", job + b":1:1",
        b"*", job + b"*:1", "job_ü:1".encode(), b"job_{}:1",
    ):  # fmt: skip
        name = f"the event id {event_id.decode().replace('0' * 30, '0~0')!a}"
        yield write.headers(18, name, [(b"Last-Event-ID", event_id)], forged, body=stream)
    nobody_s = [(b"Last-Event-ID", job + b":1")]
    yield write.headers(18, "the event id of no job", nobody_s, NOTHING_THERE, body=stream)
