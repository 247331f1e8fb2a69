"""The languages themselves: which codec speaks which kind of job."""

from __future__ import annotations

from typing import Final

from shared.domain.job import JobKind
from shared.providers.dialect import Codec, Dialect
from shared.providers.dialects.anthropic import chat_as_messages
from shared.providers.dialects.anthropic.native import native_messages, native_token_count
from shared.providers.dialects.openai_chat import openai_chat
from shared.providers.dialects.openai_completions import completions_via_chat, openai_completions
from shared.providers.dialects.openai_embeddings import openai_embeddings
from shared.providers.dialects.rerank import jina_rerank
from shared.providers.dialects.summarize import summarize_via_chat
from shared.providers.translation.messages import messages_via_chat
from shared.providers.translation.responses import responses_via_chat

OPENAI: Final = Dialect(
    "openai",
    {
        JobKind.CHAT: openai_chat,
        JobKind.MESSAGES: messages_via_chat,
        JobKind.COMPLETION: openai_completions,
        JobKind.EMBEDDINGS: openai_embeddings,
        JobKind.RERANK: jina_rerank,
        JobKind.SUMMARIZATION: summarize_via_chat,
        JobKind.RESPONSES: responses_via_chat,
    },
)
ANTHROPIC: Final = Dialect(
    "anthropic",
    {
        JobKind.CHAT: chat_as_messages,
        JobKind.MESSAGES: native_messages,
        JobKind.COMPLETION: completions_via_chat,
        JobKind.SUMMARIZATION: summarize_via_chat,
        JobKind.COUNT_TOKENS: native_token_count,
        JobKind.RESPONSES: responses_via_chat,
    },
)


def through_chat(name: str, chat: Codec) -> Dialect:
    """A language with words for chat alone: what can be said as a chat goes that way."""
    return Dialect(
        name,
        {
            JobKind.CHAT: chat,
            JobKind.MESSAGES: messages_via_chat,
            JobKind.COMPLETION: completions_via_chat,
            JobKind.SUMMARIZATION: summarize_via_chat,
            JobKind.RESPONSES: responses_via_chat,
        },
    )
