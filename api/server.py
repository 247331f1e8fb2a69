"""uvicorn's server with a gentler end: whoever reached its listener before that closed is answered.

    serving ── new handshakes ignored, begun ones end ── 10 ms ──> backlog taken, listener closed ── drain ──>
                                                                   in one step

A kernel resets what waits in the backlog of a listener that closes, and what ends its handshake after that.
A balancer may have sent a POST by then, which it must not send again. Whose handshake was ignored begins it
anew by itself, a second later, and is refused: nothing was sent, and another server may be asked.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
from typing import Final

import uvicorn
from loguru import logger

_HANDSHAKE_SECONDS: Final = 0.01
"""Longer than a packet takes there and back. Whoever comes meanwhile is refused a second later."""
_TURNS: Final = 3
"""Of the loop, until a connection that it has accepted is made, and what arrived on it read."""

# Linux: man 7 socket, include/uapi/linux/filter.h
_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of the TCP header that has the flags
    (0x54, 0, 0, 0x12),  # leave SYN and ACK of it
    (0x15, 0, 1, 0x02),  # SYN alone opens a connection
    (0x06, 0, 0, 0),  # ... drop it
    (0x06, 0, 0, 0xFFFF_FFFF),  # all else passes
)
_CLOSE: Final = (b"connection", b"close")


class Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.keep_no_connection()
        await self._close_listeners()
        await super().shutdown(sockets)

    def keep_no_connection(self) -> None:
        """From now on each answer is the last one on its connection, and says so."""
        # Once a second uvicorn makes the one of the other.
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            if _CLOSE not in headers:
                headers.append(_CLOSE)

    async def _close_listeners(self) -> None:
        # A loop's sockets accept nothing but by itself; their duplicates are the same listeners.
        listeners = [listener.dup() for server in self.servers for listener in server.sockets]
        try:
            if [listener for listener in listeners if _ignores_new_handshakes(listener)]:
                await asyncio.sleep(_HANDSHAKE_SECONDS)
            # No await before all are closed: what came meanwhile would be reset.
            waiting = [connection for listener in listeners for connection in _backlog_of(listener)]
            for server in self.servers:
                server.close()
        finally:
            for listener in listeners:
                listener.close()
        for connection in waiting:
            await self._serve_connection(connection)
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _serve_connection(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._protocol, connection)
        except OSError as exc:
            logger.debug("connection lost before it was served", error=type(exc).__name__)
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it for what its loop accepts."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # so does uvicorn
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _ignores_new_handshakes(listener: socket.socket) -> bool:
    """Makes it so where the kernel can."""
    if sys.platform != "linux" or listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET,
            _SO_ATTACH_FILTER,
            struct.pack("HP", len(_NO_SYN), ctypes.addressof(program)),
        )
    except OSError as exc:
        logger.debug("new handshakes not ignored", error=type(exc).__name__)
        return False
    return True


def _backlog_of(listener: socket.socket) -> list[socket.socket]:
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return found
        except ConnectionAbortedError:
            continue
        except OSError as exc:
            # No descriptor left for one more, say.
            logger.warning("connections lost in a backlog", error=type(exc).__name__)
            return found
        connection.setblocking(False)
        found.append(connection)
