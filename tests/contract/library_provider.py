"""A provider of vectors, rankings and continued prompts, in the ways that servers differ in.

The model says how it answers:

    floats, base64    embeddings in that encoding, whatever was asked
    mute              no usage
    cohere, logits    a ranking in Cohere's form; scores that are no scores yet
    garbage           a 200 that is no answer
    refuse            a 400

Vectors are `[n, 0.5, -0.25]` for input number n, cut to `dimensions`; a document scores by the
share of the query's words in it. A prompt is continued with itself.
"""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import log
from threading import Thread
from typing import Any, Final


class LibraryProvider:
    """Listens from `start` to `stop`, in a thread of this process."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="library-provider", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = _ANSWERS.get(self.path)
        if answer is None:
            self._send(404, "application/json", json.dumps({"error": {"message": f"no {self.path}"}}))
        elif body["model"] == "refuse":
            error = {"message": "not with me", "type": "invalid_request_error", "param": "input"}
            self._send(400, "application/json", json.dumps({"error": error}))
        elif body["model"] == "garbage":
            self._send(200, "application/json", '{"data": [{"embedding": []}], "results": [], "choices": []}')
        elif body.get("stream"):
            self._send(200, "text/event-stream", _stream(body))
        else:
            self._send(200, "application/json", json.dumps(answer(body)))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Silence: pytest shows what fails."""

    def _send(self, status: int, content_type: str, text: str) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    inputs = body["input"]
    if isinstance(inputs, str) or isinstance(inputs[0], int):
        inputs = [inputs]
    vectors = [[float(n), 0.5, -0.25][: body.get("dimensions")] for n in range(len(inputs))]
    as_base64 = body["model"] == "base64" or (
        body.get("encoding_format") == "base64" and body["model"] != "floats"
    )
    data = [
        {"object": "embedding", "index": n, "embedding": _base64(vector) if as_base64 else vector}
        for n, vector in enumerate(vectors)
    ]
    tokens = sum(len(one) if isinstance(one, list) else len(one.split()) for one in inputs)
    answer = {"object": "list", "data": data, "model": body["model"]}
    return answer | _usage(body, tokens)


def _base64(vector: list[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _rerank(body: dict[str, Any]) -> dict[str, Any]:
    wanted = set(body["query"].split())
    scores = [len(wanted & set(document.split())) / len(wanted) for document in body["documents"]]
    if body["model"] == "logits":
        scores = [log((score + 0.01) / (1.01 - score)) for score in scores]
    results = [{"index": n, "relevance_score": score} for n, score in enumerate(scores)]
    results.sort(key=lambda result: -result["relevance_score"])
    results = results[: body.get("top_n")]
    tokens = sum(len(document.split()) for document in body["documents"])
    if body["model"] == "cohere":
        return {"id": "ranking", "results": results, "meta": {"tokens": {"input_tokens": tokens}}}
    return {"model": body["model"], "results": results} | _usage(body, tokens)


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    choice = {"text": str(body["prompt"]), "index": 0, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "cmpl-library", "object": "text_completion", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    return {**head, "choices": [choice], "usage": usage}


def _stream(body: dict[str, Any]) -> str:
    whole = _completion(body)
    usage = whole.pop("usage")
    (choice,) = whole["choices"]
    pieces = [{**choice, "text": word, "finish_reason": None} for word in choice["text"].split(" ")]
    chunks = [{**whole, "choices": [piece]} for piece in (*pieces, {**choice, "text": ""})]
    if body.get("stream_options", {}).get("include_usage"):
        chunks.append({**whole, "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def _usage(body: dict[str, Any], tokens: int) -> dict[str, Any]:
    if body["model"] == "mute":
        return {}
    return {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


_ANSWERS: Final[dict[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
    "/v1/completions": _completion,
}
