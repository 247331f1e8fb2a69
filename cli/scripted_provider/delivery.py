"""Delivers a scene at the pace of its cue: delays, single bytes, split writes."""

import asyncio
from itertools import cycle
from typing import Protocol

from cli.scripted_provider.call_log import Call
from cli.scripted_provider.cues import Cue
from cli.scripted_provider.dialect import Chunk
from cli.scripted_provider.replies import LAST_CHUNK, chunked
from cli.scripted_provider.staging import Ending, Scene

_SPLIT_SIZES = (1, 2, 3, 5, 7)
# Long enough for the reader to be scheduled and see half a character.
_SPLIT_PAUSE_SECONDS = 0.001


class Wire(Protocol):
    def write(self, data: bytes) -> None:
        """Hand `data` to the kernel now, or buffer what it will not take."""

    async def drained(self) -> None:
        """Return once the kernel has taken every byte."""


async def deliver(scene: Scene, cue: Cue, *, call: Call, to: Wire, delay_seconds: float = 0) -> None:
    """Send all the scene sends. How it ends is left to the caller."""
    await _pause(cue.before_headers_ms / 1000 or delay_seconds)
    if not scene.head:
        return
    call.status = scene.status
    await _send(scene.head, cue, to)
    if scene.frames:
        await _pause(cue.before_body_ms / 1000)
    for at, frame in enumerate(scene.frames):
        if at:
            await _pause(cue.between_chunks_ms / 1000)
        data = chunked(frame) if scene.is_chunked else frame
        if cue.slow_drip_ms:
            await _drip(data, to, seconds=cue.slow_drip_ms / 1000)
        else:
            await _send(data, cue, to)
        if isinstance(frame, Chunk):
            call.chunks_sent += 1
    if scene.is_chunked and scene.ending is Ending.COMPLETE:
        await _send(LAST_CHUNK, cue, to)


async def _pause(seconds: float) -> None:
    if seconds:
        await asyncio.sleep(seconds)


async def _send(data: bytes, cue: Cue, to: Wire) -> None:
    if not data:
        return
    if cue.split_writes:
        await _split(data, to)
    else:
        to.write(data)
        await to.drained()


async def _drip(data: bytes, to: Wire, *, seconds: float) -> None:
    for at in range(len(data)):
        to.write(data[at : at + 1])
        await asyncio.sleep(seconds)


async def _split(data: bytes, to: Wire) -> None:
    at, sizes = 0, cycle(_SPLIT_SIZES)
    while at < len(data):
        size = next(sizes)
        to.write(data[at : at + size])
        at += size
        await asyncio.sleep(_SPLIT_PAUSE_SECONDS if _is_inside_character(data, at) else 0)
    await to.drained()


def _is_inside_character(data: bytes, at: int) -> bool:
    return at < len(data) and data[at] & 0xC0 == 0x80
