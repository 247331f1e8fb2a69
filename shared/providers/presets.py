"""A model by a name of its operator's, with a system text and defaults: one for each use of it.

[[preset]]
name = "contracts"                        # what callers write as `model`
model = "lab/phi-4"
system = "You review contracts."          # stands before the caller's own
description = "Reviews contracts"
defaults = { temperature = 0.1 }          # the caller's own values win
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.domain.job import JobKind
from shared.providers.not_carried_over import not_carried_over

_NOT_DEFAULTS: Final = frozenset(
    {*("model", "messages", "input", "prompt", "system", "instructions", "stream", "stream_options")}
)
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""One parameter under three names: a caller's own, by whichever name, keeps a default away."""


def _check_defaults(defaults: dict[str, Any]) -> dict[str, Any]:
    for name in sorted(_NOT_DEFAULTS & defaults.keys()):
        raise ValueError(f"must not have {name}")
    try:
        json.dumps(defaults, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError("must hold text, numbers, booleans, lists and tables alone") from exc
    return defaults


class Preset(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    model: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
    system: Annotated[str, Field(min_length=1)] | None = None
    defaults: Annotated[dict[str, Any], AfterValidator(_check_defaults)] = {}
    description: str = ""

    @model_validator(mode="after")
    def _of_another_name(self) -> Preset:
        # The two must differ, or a request could pass for one that needs no completing.
        if self.name in {self.model, self.model.partition("/")[2]}:
            raise ValueError("name must differ from the model's own")
        return self


def apply(preset: Preset, document: dict[str, Any], kind: JobKind) -> None:
    """Completes `document`, all but its `model`.

    Raises InvalidRequest (400) where a system text has no place.
    """
    if preset.system is not None:
        _say_first(preset.system, document, kind)
    if kind is JobKind.COUNT_TOKENS:
        # Nothing is generated, and Anthropic refuses parameters that say how.
        return
    limited = any(document.get(name) is not None for name in _LIMITS)
    for name, value in preset.defaults.items():
        if name not in _LIMITS:
            if document.get(name) is None:
                document[name] = value
        elif not limited:
            document[_limit_of(kind, name)] = value


def _limit_of(kind: JobKind, name: str) -> str:
    if kind is JobKind.RESPONSES:
        return "max_output_tokens"
    return name if kind is JobKind.CHAT and name != "max_output_tokens" else "max_tokens"


def _say_first(system: str, document: dict[str, Any], kind: JobKind) -> None:
    if kind is JobKind.CHAT:
        document["messages"] = [{"role": "system", "content": system}, *document["messages"]]
    elif kind in {JobKind.MESSAGES, JobKind.COUNT_TOKENS}:
        own = document.get("system")
        if isinstance(own, list):
            document["system"] = [{"type": "text", "text": system}, *own]
        else:
            document["system"] = _joined(system, own)
    elif kind is JobKind.RESPONSES:
        document["instructions"] = _joined(system, document.get("instructions"))
    elif kind is JobKind.COMPLETION and isinstance(document.get("prompt"), str):
        document["prompt"] = _joined(system, document["prompt"])
    else:
        raise not_carried_over("model", "the system text of this preset has no place in such a request.")


def _joined(first: str, second: str | None) -> str:
    return f"{first}\n\n{second}" if second else first
