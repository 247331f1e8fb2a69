"""Tokens of a request: before it is sent, and of a call whose provider did not count them.

What a model reads as text counts by its tokenizer: messages, tool calls, tool definitions,
inputs. Media count by the piece, whatever their size on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from shared.domain.job import JobKind
from shared.providers.tokens_bpe import text_tokens, texts_tokens

__all__ = ["MEDIA_TOKENS", "prompt_tokens", "text_tokens", "tokens_of_body", "tokens_of_chars"]

_CHARS_PER_TOKEN: Final = 4
MEDIA_TOKENS: Final = 1_000
"""For each image, file or audio part. A picture of 1024 x 1024 costs 765 tokens at OpenAI (gpt-4o,
high detail) and some 1,400 at Anthropic (width x height / 750): a thousand is between the two.
"""
_MEDIA: Final = frozenset(
    {"image_url", "input_audio", "file", "image", "document", "input_image", "input_file"}
)
# openai-cookbook, "How to count tokens with tiktoken": three a message and one for its role, one
# more for a name, and three before the answer.
_PER_MESSAGE: Final = 4
_PER_NAME: Final = 1
_BEFORE_ANSWER: Final = 3


def prompt_tokens(kind: JobKind, document: Mapping[str, Any], model: str) -> int:
    """Of a request in the form of `kind`; whatever is malformed counts nothing."""
    prompt = _Prompt()
    _READERS[kind](prompt, document)
    found = texts_tokens(prompt.texts, model) + prompt.beside
    if kind is JobKind.RERANK:
        # A cross-encoder reads the query again with each document.
        again = max(len(_list(document.get("documents"))) - 1, 0)
        found += again * text_tokens(_text(document.get("query")), model)
    return found


def tokens_of_body(kind: JobKind, body: bytes, model: str) -> int:
    """The same of a job's body, which is parsed for this alone: ask only where it is needed."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return prompt_tokens(kind, document, model) if isinstance(document, dict) else tokens_of_chars(len(body))


def tokens_of_chars(chars: int) -> int:
    """Of text that nobody kept."""
    return -(-chars // _CHARS_PER_TOKEN)


class _Prompt:
    """`texts` are to be tokenized; `beside` is what counts tokens already."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.beside = 0

    def text(self, value: Any) -> None:
        if isinstance(value, str) and value:
            self.texts.append(value)

    def json(self, value: Any) -> None:
        if value:
            try:
                self.texts.append(orjson.dumps(value).decode())
            except TypeError:  # a number beyond 64 bits, or half of a surrogate pair
                self.texts.append(str(value))

    def conversation(self, document: Mapping[str, Any]) -> None:
        """Chat, messages and responses: three names for the same things."""
        self.content(document.get("system"))
        self.content(document.get("instructions"))
        items = document.get("messages", document.get("input"))
        if isinstance(items, str):
            items = [{"content": items}]
        for item in _objects(items):
            self.beside += _PER_MESSAGE
            self.message(item)
        self.json(document.get("tools"))
        self.json(document.get("functions"))
        if self.texts or self.beside:
            self.beside += _BEFORE_ANSWER

    def message(self, message: Mapping[str, Any]) -> None:
        self.content(message.get("content"))
        if message.get("name"):
            self.beside += _PER_NAME
        self.call(message)
        self.content(message.get("output"))
        self.content(message.get("summary"))
        for call in _objects(message.get("tool_calls")):
            for function in _objects([call.get("function")]):
                self.call(function)

    def call(self, function: Mapping[str, Any]) -> None:
        self.text(function.get("name"))
        self.text(function.get("arguments"))

    def content(self, content: Any) -> None:
        """A string, or parts of any of the three forms."""
        self.text(content)
        for part in _objects(content):
            if _text(part.get("type")) in _MEDIA:
                self.beside += MEDIA_TOKENS
                continue
            for field in ("text", "refusal", "thinking", "name"):
                self.text(part.get(field))
            self.json(part.get("input"))
            self.content(part.get("content"))

    def inputs(self, value: Any) -> None:
        """A string, several, or tokens that the caller counted already."""
        self.text(value)
        for item in _list(value):
            if isinstance(item, int):
                self.beside += 1
            elif isinstance(item, list):
                self.beside += len(item)
            else:
                self.text(item)

    def completion(self, document: Mapping[str, Any]) -> None:
        self.inputs(document.get("prompt"))
        self.text(document.get("suffix"))

    def embeddings(self, document: Mapping[str, Any]) -> None:
        self.inputs(document.get("input"))

    def rerank(self, document: Mapping[str, Any]) -> None:
        self.text(document.get("query"))
        for item in _list(document.get("documents")):
            self.text(item.get("text") if isinstance(item, dict) else item)

    def summarization(self, document: Mapping[str, Any]) -> None:
        self.text(document.get("text"))

    def nothing(self, document: Mapping[str, Any]) -> None:
        """No model reads it."""


_READERS: Final[Mapping[JobKind, Callable[[_Prompt, Mapping[str, Any]], None]]] = {
    JobKind.CHAT: _Prompt.conversation,
    JobKind.MESSAGES: _Prompt.conversation,
    JobKind.RESPONSES: _Prompt.conversation,
    JobKind.COUNT_TOKENS: _Prompt.conversation,
    JobKind.COMPLETION: _Prompt.completion,
    JobKind.EMBEDDINGS: _Prompt.embeddings,
    JobKind.RERANK: _Prompt.rerank,
    JobKind.SUMMARIZATION: _Prompt.summarization,
    JobKind.CREDENTIAL_CHECK: _Prompt.nothing,
    JobKind.PROVIDER_BATCH: _Prompt.nothing,
}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in _list(value) if isinstance(item, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
