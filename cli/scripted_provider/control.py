"""The control routes: queue cues, read the calls, wait for them."""

from urllib.parse import parse_qs

import orjson

from cli.scripted_provider.call_log import CallLog
from cli.scripted_provider.cues import BadCue, CueSheet


async def control(
    method: str, path: str, *, query: str, body: bytes, cues: CueSheet, log: CallLog
) -> tuple[int, bytes]:
    """Status and JSON body.

    `GET /_calls?opened=3&closed=1` holds its answer until so many calls were opened
    and closed since the last DELETE, so that a test waits instead of polling.
    """
    match method, path:
        case "GET", "/health":
            return 200, b'{"status":"ok"}'
        case "POST", "/_script":
            try:
                cues.preset(body)
            except BadCue as exc:
                return 400, orjson.dumps({"error": str(exc)})
        case "DELETE", "/_script":
            cues.clear()
        case "GET", "/_calls":
            wanted = parse_qs(query)
            try:
                opened, closed = (int(wanted.get(name, ["0"])[0]) for name in ("opened", "closed"))
            except ValueError:
                return 400, orjson.dumps({"error": "opened and closed are numbers."})
            await log.reach(opened=opened, closed=closed)
            return 200, orjson.dumps(log.calls())
        case "DELETE", "/_calls":
            log.clear()
        case "GET", "/_stats":
            return 200, orjson.dumps(log.stats())
        case _:
            return 404, orjson.dumps({"error": f"No route {method} {path}."})
    return 200, b"{}"
