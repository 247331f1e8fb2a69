"""Counts that no call can have are cut, so that what follows from them can be written down."""

from __future__ import annotations

from shared.domain.usage import LARGEST_COUNT, MOST_TOKENS
from shared.providers.dialects.anthropic.answer import UsageCounts
from shared.providers.dialects.openai_chat import read_usage


def test_absurd_counts_of_a_chat_are_cut() -> None:
    usage = read_usage({"prompt_tokens": 2**64, "completion_tokens": 2**200, "total_tokens": 1})

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (MOST_TOKENS, MOST_TOKENS)
    assert usage.total_tokens <= LARGEST_COUNT


def test_absurd_counts_of_a_message_are_cut() -> None:
    counts = UsageCounts()
    counts.add({"input_tokens": 2**64, "cache_read_input_tokens": 2**64, "output_tokens": 2**64})

    usage = counts.usage()

    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (2 * MOST_TOKENS, MOST_TOKENS)
