"""What a request asks of a model, and whether a target can do that, as far as anybody knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from shared.domain.job import JobKind, Target
from shared.providers.catalogue import Catalogue
from shared.providers.profile import Capability
from shared.providers.registry import Registry
from shared.providers.tokens import MEDIA_TOKENS, prompt_tokens, tokens_of_chars
from shared.routing.routing_file import REQUIREMENTS
from shared.routing.table import capabilities_of

CONTEXT_LENGTH: Final = "context length"
"""What a target lacks whose context is too short."""

_IMAGES: Final = frozenset({"image_url", "image", "input_image"})
_MEDIA: Final = _IMAGES | {"input_audio", "file", "document", "input_file"}
_CONVERSATIONS: Final = frozenset({JobKind.CHAT, JobKind.MESSAGES, JobKind.RESPONSES})
_ONE_CONTEXT: Final = _CONVERSATIONS | {JobKind.SUMMARIZATION}
"""Kinds whose whole request is read at once; the texts of the others have a context each."""
_OF_KIND: Final[Mapping[JobKind, Capability]] = {
    **dict.fromkeys(_CONVERSATIONS, Capability.CHAT),
    JobKind.EMBEDDINGS: Capability.EMBEDDINGS,
    JobKind.RERANK: Capability.RERANK,
}
_ANSWER_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens", "max_length")
_OVERHEAD_TOKENS: Final = 8
"""For each message: what a tokenizer puts around it, at most."""


class Needs:
    """Of one request; made only where there is something to choose."""

    def __init__(self, kind: JobKind, document: Mapping[str, Any]) -> None:
        self._kind = kind
        self._document = document
        self._prompt_tokens: dict[str, int] = {}
        self._size = len(orjson.dumps(document))
        parts = [part.get("type") for part in _parts(document)]
        self.capabilities = _capabilities(kind, document, images=not _IMAGES.isdisjoint(parts))
        self.answer_tokens = _answer_tokens(document)
        """The longest answer asked for; 0 where the caller did not say."""
        media = sum(part in _MEDIA for part in parts)
        # No token is shorter than a byte.
        self._prompt_at_most = self._size + media * MEDIA_TOKENS + len(_messages(document)) * _OVERHEAD_TOKENS

    @property
    def rough_prompt_tokens(self) -> int:
        """Good for comparing prices, and free."""
        return tokens_of_chars(self._size)

    def lacks(self, target: Target, registry: Registry, catalogue: Catalogue) -> list[str]:
        """What keeps `target` from taking the request, in the words of a routing file; [] if nothing."""
        missing = self.capabilities - capabilities_of(target, registry, catalogue)
        lacking = [_WORDS.get(need, need.value) for need in sorted(missing)]
        if self._is_too_long_for(target, catalogue):
            lacking.append(CONTEXT_LENGTH)
        return lacking

    def _is_too_long_for(self, target: Target, catalogue: Catalogue) -> bool:
        known = catalogue.of_provider(target.provider, target.model) or catalogue.lists(
            target.provider, target.model
        )
        if self._kind not in _ONE_CONTEXT or known is None or not known.context_tokens:
            return False
        room = known.context_tokens - self.answer_tokens
        if self._prompt_at_most <= room:
            return False
        if target.model not in self._prompt_tokens:
            self._prompt_tokens[target.model] = prompt_tokens(self._kind, self._document, target.model)
        return self._prompt_tokens[target.model] > room


_WORDS: Final = {need: word for word, need in REQUIREMENTS.items()}


def _capabilities(kind: JobKind, document: Mapping[str, Any], *, images: bool) -> frozenset[Capability]:
    found = {need} if (need := _OF_KIND.get(kind)) is not None else set()
    if kind in _CONVERSATIONS:
        if document.get("tools") or document.get("functions"):
            found.add(Capability.FUNCTION_CALLING)
        if images:
            found.add(Capability.VISION)
        if _wants_a_schema(document):
            found.add(Capability.STRUCTURED_OUTPUT)
        if document.get("stream") is True:
            found.add(Capability.STREAM)
    return frozenset(found)


def _wants_a_schema(document: Mapping[str, Any]) -> bool:
    """Chat says so in `response_format`, responses in `text.format`, messages in `output_config.format`."""
    forms = [document.get("response_format"), document.get("output_format")]
    forms += [
        holder.get("format")
        for name in ("text", "output_config")
        if isinstance(holder := document.get(name), dict)
    ]
    return any(isinstance(form, dict) and form.get("type") == "json_schema" for form in forms)


def _answer_tokens(document: Mapping[str, Any]) -> int:
    for name in _ANSWER_LIMITS:
        value = document.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def _messages(document: Mapping[str, Any]) -> list[Any]:
    found = document.get("messages", document.get("input"))
    return found if isinstance(found, list) else []


def _parts(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parts of contents in any of the three forms, those within the results of tools included."""
    pending = [document.get("system"), *_messages(document)]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if isinstance(item.get("type"), str):
                yield item
            pending += [item.get("content"), item.get("output")]
        elif isinstance(item, list):
            pending += item
