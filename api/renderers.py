"""How an answer that is read later looks: as the route would have answered that it was asked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shared.domain.job import JobKind, Surface
from shared.queue.frames import Result

RenderLater = Callable[[Result, dict[str, Any]], bytes]
"""The result, and the request as it was queued."""

_BY_FORM: Final[dict[tuple[Surface, JobKind], RenderLater]] = {}


def register_render(surface: Surface, kind: JobKind, render: RenderLater) -> None:
    _BY_FORM[surface, kind] = render


def needs_request(surface: Surface, kind: JobKind) -> bool:
    """Whether the request must be kept for its answer to be told."""
    return kind is JobKind.RERANK and (surface, kind) in _BY_FORM


def render_later(surface: Surface, kind: JobKind, result: Result, request: dict[str, Any]) -> bytes:
    render = _BY_FORM.get((surface, kind))
    return (result.body or b"{}") if render is None else render(result, request)
