"""HOT PATH. What a request may take at most, as far as it can be told before it ran.

    prompt: its bytes, or what it only names: an image, a file, tokens in numbers
    answer: as long as it says, in the words that its kind has; else as long as its target makes it

An upper bound, because it is what stands between a caller and a budget: whatever makes it smaller
than what a provider may charge is a way round the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.domain.job import JobKind, Target
from shared.providers import anthropic
from shared.providers.cache_marks import highest_cost
from shared.providers.catalogue import Catalogue
from shared.providers.dialects.anthropic.request import default_max_tokens

_MOST: Final = 10**12
"""Tokens or micro-dollars of one request: sums of these are still exact in a script's numbers."""
_BYTES_A_TOKEN: Final = 3
"""Fewer than any usual text has, so that the estimate is an upper one."""


@dataclass(frozen=True, slots=True)
class _Form:
    """What requests of a kind say of their size.

    limits: the names that limit an answer
    also: one that limits nothing by itself, and goes on to a provider that is asked through chat
    generates: whether there is an answer that takes tokens
    several: whether they may ask for several answers
    counted: where tokens may come as numbers
    """

    limits: tuple[str, ...] = ()
    also: str | None = None
    generates: bool = True
    several: bool = False
    counted: str | None = None


_FORMS: Final[Mapping[JobKind, _Form]] = {
    JobKind.CHAT: _Form(("max_completion_tokens", "max_tokens"), several=True),
    JobKind.MESSAGES: _Form(("max_tokens",), also="max_completion_tokens"),
    JobKind.RESPONSES: _Form(("max_output_tokens",)),
    JobKind.COMPLETION: _Form(("max_tokens",), also="max_completion_tokens", several=True, counted="prompt"),
    JobKind.EMBEDDINGS: _Form(generates=False, counted="input"),
    JobKind.RERANK: _Form(generates=False),
    JobKind.COUNT_TOKENS: _Form(generates=False),
    # The length of a summary is asked for, and not enforced.
    JobKind.SUMMARIZATION: _Form(),
    JobKind.CREDENTIAL_CHECK: _Form(generates=False),
    JobKind.PROVIDER_BATCH: _Form(generates=False),
}
_IMAGES: Final = frozenset({"image_url", "image", "input_image"})
_FILES: Final = frozenset({"file", "input_file", "document"})
_REFERENCES: Final = ("file_id", "file_url", "url")
_NAMED: Final = frozenset({"file_url", "container_upload", "audio_url", "video_url", "input_video"})
"""Parts that may hold as much as a model reads at all, however few bytes they are here."""
_IMAGE_TOKENS: Final = 16_384
"""The most that any model makes of an image, but these: Qwen2.5-VL, 16,384 patches (its model card)."""
_IMAGE_TOKENS_OF: Final = (("gpt-4o-mini", 48_200),)
"""By the beginning of a name. 2,833 and 5,667 for each of at most 8 tiles.
platform.openai.com/docs/guides/images-vision, "Calculating costs".
"""
_FILE_TOKENS: Final = 200_000
"""Of a file that is here: pages are compressed, and read as text and as an image each."""
_UNKNOWN_CONTEXT_TOKENS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """At most, as far as anybody can tell before."""

    tokens: int
    micro_usd: int


@dataclass(slots=True)
class _Media:
    """Parts of a prompt that are more than their bytes. `is_whole`: some part may fill the context."""

    images: int = 0
    files: int = 0
    is_whole: bool = False


def estimate_of(
    plan: Sequence[Target],
    kind: JobKind,
    document: Mapping[str, Any],
    body_bytes: int,
    *,
    catalogue: Catalogue,
    default_answer: int,
) -> Estimate:
    """Of the dearest target. `default_answer`: tokens, where neither the request nor its target says."""
    form = _FORMS[kind]
    text = body_bytes // _BYTES_A_TOKEN
    if form.counted is not None:
        text = max(text, _counted_tokens(document.get(form.counted)))
    text += 1
    media = _media_in(document)
    asked, copies = _asked_answer(form, document), 1
    if form.several:
        copies = _copies(kind, document)
    tokens = cost = 0
    for target in plan:
        prompt = text if media is None else _with_media(text, media, target, catalogue)
        answer = copies * _longest_answer(asked, target, catalogue, default_answer) if form.generates else 0
        tokens = max(tokens, prompt + answer)
        prices = catalogue.prices(target.provider, target.model)
        if prices is not None and kind is not JobKind.COUNT_TOKENS:
            cost = max(cost, highest_cost(prices, prompt, answer, document))
    return Estimate(min(tokens, _MOST), min(cost, _MOST))


def _longest_answer(asked: int, target: Target, catalogue: Catalogue, default_answer: int) -> int:
    if not asked and target.provider == anthropic.PROFILE.id:
        # Who has to say a limit there says the model's own.
        return default_max_tokens(target.model, catalogue)
    known = catalogue.of_provider(target.provider, target.model)
    answer = asked or default_answer
    return min(answer, known.max_output_tokens) if known is not None and known.max_output_tokens else answer


def _asked_answer(form: _Form, document: Mapping[str, Any]) -> int:
    """The longest that any name allows, for which of them a provider goes by is its own choice; or 0."""
    asked = 0
    for name in form.limits:
        if name in document:
            asked = max(asked, _number(document, name))
    return max(asked, _number(document, form.also)) if asked and form.also in document else asked


def _copies(kind: JobKind, document: Mapping[str, Any]) -> int:
    copies = max(1, _number(document, "n"))
    if kind is JobKind.COMPLETION:
        prompt = document.get("prompt")
        # All of `best_of` are generated, and charged, whatever is shown.
        copies = max(copies, _number(document, "best_of"))
        if type(prompt) is list and prompt and type(prompt[0]) is not int:
            copies *= len(prompt)
    return copies


def _number(document: Mapping[str, Any], name: str | None) -> int:
    value = document.get(name) if name else None
    return value if type(value) is int and value > 0 else 0


def _counted_tokens(items: Any) -> int:
    """Tokens that came as numbers, which may be of one digit."""
    if type(items) is not list or not items:
        return 0
    if type(items[0]) is int:
        return len(items)
    return sum(len(item) for item in items if type(item) is list)


def _media_in(document: Mapping[str, Any]) -> _Media | None:
    items = document.get("messages")
    if items is None:
        items = document.get("input")
    if type(items) is not list:
        return None
    media: _Media | None = None
    for item in items:
        content = (item.get("content") or item.get("output")) if type(item) is dict else None
        if type(content) is list:
            media = media or _Media()
            _count(content, media)
    return media


def _count(parts: Iterable[Any], media: _Media) -> None:
    for part in parts:
        if type(part) is not dict:
            continue
        what = part.get("type")
        if what in _IMAGES:
            media.images += 1
        elif what in _NAMED:
            media.is_whole = True
        elif what in _FILES:
            _count_file(part, media)
        elif type(within := part.get("content")) is list:
            # What a tool answered.
            _count(within, media)


def _count_file(part: Mapping[str, Any], media: _Media) -> None:
    held = part.get("source") or part.get("file")
    places = (part, held) if isinstance(held, dict) else (part,)
    if any(place.get(name) for place in places for name in _REFERENCES):
        media.is_whole = True
    elif not isinstance(held, dict) or held.get("type") not in ("text", "content"):
        media.files += 1
    elif type(within := held.get("content")) is list:
        _count(within, media)


def _with_media(text: int, media: _Media, target: Target, catalogue: Catalogue) -> int:
    if not (media.images or media.files or media.is_whole):
        return text
    known = catalogue.of_provider(target.provider, target.model) or catalogue.lists(
        target.provider, target.model
    )
    context = (known.context_tokens if known is not None else None) or _UNKNOWN_CONTEXT_TOKENS
    if media.is_whole:
        return max(text, context)
    each = next((n for name, n in _IMAGE_TOKENS_OF if target.model.startswith(name)), _IMAGE_TOKENS)
    return max(text, min(text + media.images * each + media.files * _FILE_TOKENS, context))
