"""A provider that answers with the request it got: its headers and its body, as JSON in the content.

Echo = {"headers": {lowercase name: value}, "body": {...}}
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class EchoProvider:
    """Listens from `start` to `stop`, in a thread of this process."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="echo-provider", daemon=True)

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
        headers = {name.lower(): value for name, value in self.headers.items()}
        content = json.dumps({"headers": headers, "body": body})
        if body.get("stream"):
            chunk = _completion("chat.completion.chunk", body["model"], {"delta": {"content": content}})
            self._answer("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")
        else:
            message = {"message": {"role": "assistant", "content": content}}
            self._answer(
                "application/json", json.dumps(_completion("chat.completion", body["model"], message))
            )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Silence: pytest shows what fails."""

    def _answer(self, content_type: str, text: str) -> None:
        payload = text.encode()
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def _completion(kind: str, model: str, said: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", **said}
    return {"id": "chatcmpl-echo", "object": kind, "created": 1, "model": model, "choices": [choice]}
