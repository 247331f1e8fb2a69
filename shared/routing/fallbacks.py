"""What a request says of other models to go on to: `fallback_models` in its body, or two headers.

    x-headrace-fallback-models: anthropic/claude-haiku-4-5, house
    x-headrace-fallback-on: context_length, content_filter

The body's word wins over the header's. Both are the gateway's own and reach no provider, save
`fallback_models` where the model is one of a provider that has a word for it: a LiteLLM proxy
falls back by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from shared.domain.job import FallbackOn
from shared.errors import BadRequest, InvalidRequest, ModelNotFound
from shared.requests.chat import Model
from shared.requests.checking import check
from shared.routing.means import RawHeaders, RoutingMeans
from shared.routing.router import Wish

FIELD: Final = "fallback_models"
MAX_FALLBACKS: Final = 8

_MODELS: Final = b"x-headrace-fallback-models"
_ON: Final = b"x-headrace-fallback-on"
_HEADERS: Final = frozenset({_MODELS, _ON})

FallbackModels = Annotated[list[Model], Field(max_length=MAX_FALLBACKS)]


class _Said(TypedDict):
    fallback_models: FallbackModels | None


_SAID: Final = TypeAdapter(_Said)


def says_something(document: dict[str, Any], headers: RawHeaders) -> bool:
    """Whether this request mentions fallbacks at all; most do not."""
    if FIELD in document:
        return True
    for header, _ in headers:  # noqa: SIM110 - a generator costs four times as much
        if header in _HEADERS:
            return True
    return False


def take_wish(
    name: str, document: dict[str, Any], headers: RawHeaders, via: RoutingMeans
) -> tuple[Wish, bool]:
    """What is asked for by `name`; whether `document` said something of it, which is taken out.

    Raises InvalidRequest, or ModelNotFound for a fallback that is none.
    """
    models: tuple[str, ...] | None = None
    fallback_on: frozenset[FallbackOn] | None = None
    for header, value in headers:
        if header == _MODELS:
            models = _models_in(value)
        elif header == _ON:
            fallback_on = _failures_in(value)
    taken = False
    if FIELD in document:
        if via.router.passes_on(name, FIELD):
            models = ()
        else:
            said = document.pop(FIELD)
            taken = True
            check(_SAID, {FIELD: said})
            models = models if said is None else tuple(said)
    refuse_presets(models or (), via)
    return Wish(name, models, fallback_on), taken


def refuse_presets(models: Iterable[str], via: RoutingMeans) -> None:
    """Raises ModelNotFound: a preset completes a request, and by then that has been sent."""
    for model in models:
        if model in via.registry.presets:
            raise ModelNotFound(
                f"{model!r} is a preset: no request can fall back to one.",
                param=FIELD,
                details={"available_models": []},
            )


def _models_in(header: bytes) -> tuple[str, ...]:
    models = _words_in(header)
    try:
        check(_SAID, {FIELD: models})
    except InvalidRequest as fault:
        told = fault.message.partition(": ")[2]
        raise BadRequest(f"{_MODELS.decode()}: {told}", param=_MODELS.decode()) from None
    return tuple(models)


def _failures_in(header: bytes) -> frozenset[FallbackOn]:
    try:
        return frozenset(map(FallbackOn, _words_in(header)))
    except ValueError:
        name = _ON.decode()
        raise BadRequest(f"{name}: must be of {', '.join(FallbackOn)}.", param=name) from None


def _words_in(header: bytes) -> list[str]:
    return [word for part in header.decode("latin-1").split(",") if (word := part.strip())]
