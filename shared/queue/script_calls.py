"""Calling the scripts by SHA, loading them when the server does not know them."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from shared.queue.redis_link import RedisArg, RedisLink

SCRIPTS: Final = (
    "append",
    "attach",
    "begin",
    "cancel",
    "claim_key",
    "enqueue",
    "finish",
    "forget",
    "forget_consumer",
    "hand_back",
    "heartbeat",
    "kept",
    "leave",
    "listen",
    "move",
    "promote_due",
    "purge",
    "redrive",
    "refill",
    "retry_later",
)

_FLAGS: Final = re.compile(r"^-- flags: ([a-z, -]+)$", re.MULTILINE)
ALLOW_OOM: Final = "redis.pcall('HDEL', KEYS[1], '')\n"
"""What `allow-oom` is before 7.0, and since then for scripts without flags: a full server refuses no write
of a script that wrote already, and HDEL is a write that it never refuses. This one changes nothing
(eval.c of 6.2, `lua_write_dirty`; script.c of 7.0, `scriptVerifyOOM`).
"""


def source(name: str, *, with_flags: bool) -> str:
    """The script with the shared part in front; flags where the server knows them (7.0+)."""
    folder = resources.files("shared.queue.scripts")
    body = (folder / f"{name}.lua").read_text(encoding="utf-8")
    text = (folder / "lib.lua").read_text(encoding="utf-8") + body
    flags = _FLAGS.search(body)
    if flags is None:
        return text
    return f"#!lua flags={flags[1]}\n{text}" if with_flags else ALLOW_OOM + text


class Scripts:
    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._shas: dict[str, bytes] = {}
        self._with_flags = False
        self._loading: asyncio.Task[None] | None = None

    async def call(self, name: str, keys: list[str], *args: RedisArg) -> Any:
        """Raises RedisError. Safe to repeat: the scripts are idempotent."""
        if (sha := self._shas.get(name)) is not None:
            try:
                return await self._link.execute("EVALSHA", sha, len(keys), *keys, *args)
            except NoScriptError:
                self._shas.clear()
        await self.load()
        # Forgotten again where another node of a cluster just answered that it knows none.
        if (sha := self._shas.get(name)) is not None:
            with suppress(NoScriptError):
                return await self._link.execute("EVALSHA", sha, len(keys), *keys, *args)
        # The node that serves these keys took over since, or could not be loaded to.
        text = source(name, with_flags=self._with_flags)
        return await self._link.execute("EVAL", text, len(keys), *keys, *args)

    async def load(self) -> None:
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name="load-scripts")
            self._loading.add_done_callback(self._loaded)
        await asyncio.shield(self._loading)

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()

    async def _load(self) -> None:
        with_flags = self._with_flags = await self._server_knows_flags()
        shas = await asyncio.gather(
            *(
                self._link.execute_everywhere("SCRIPT", "LOAD", source(name, with_flags=with_flags))
                for name in SCRIPTS
            )
        )
        self._shas = {name: sha for name, (sha, *_) in zip(SCRIPTS, shas, strict=True)}

    async def _server_knows_flags(self) -> bool:
        try:
            info: bytes = await self._link.execute("INFO", "server")
        except ResponseError:
            return False  # INFO may be forbidden to our user
        version = re.search(rb"redis_version:(\d+)", info)
        return version is not None and int(version[1]) >= 7
