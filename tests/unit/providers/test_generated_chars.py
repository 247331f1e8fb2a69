"""What a plain answer counts as generated, where its provider counted no tokens."""

from __future__ import annotations

import orjson
import pytest

from shared.domain.job import JobKind, Target
from shared.providers import huggingface
from shared.providers.profile import ProviderProfile
from tests.unit.providers.support import ANTHROPIC, CLAUDE, GPT, OPENAI, VLLM, a_call

LLAMA = Target("vllm", "meta-llama/Llama-3.1-8B")
BART = Target("huggingface", "facebook/bart-large-cnn")
SAID = {
    "role": "assistant",
    "content": "said",
    "reasoning": "thought",
    "refusal": None,
    "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": '{"a":1}'}}, "noise"],
}
BLOCKS = [
    {"type": "thinking", "thinking": "thought", "signature": "x" * 99},
    {"type": "text", "text": "said"},
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
]
CHARS = len("said" + "thought" + '{"a":1}')


@pytest.mark.parametrize(
    ("profile", "target", "kind", "answer", "chars"),
    [
        (OPENAI, GPT, JobKind.CHAT, {"choices": [{"message": SAID}, {"message": SAID}]}, 2 * CHARS),
        (OPENAI, GPT, JobKind.MESSAGES, {"choices": [{"message": SAID}]}, CHARS),
        (ANTHROPIC, CLAUDE, JobKind.CHAT, {"content": BLOCKS}, CHARS),
        (ANTHROPIC, CLAUDE, JobKind.MESSAGES, {"content": BLOCKS}, CHARS),
        (VLLM, LLAMA, JobKind.COMPLETION, {"choices": [{"text": "one"}, {"text": "two"}]}, 6),
        (huggingface.PROFILE, BART, JobKind.SUMMARIZATION, [{"summary_text": "short"}], 5),
    ],
)
def test_only_what_the_model_wrote(
    profile: ProviderProfile, target: Target, kind: JobKind, answer: object, chars: int
) -> None:
    request = {"messages": [{"role": "user", "content": "long " * 1_000}], "max_tokens": 9, "text": "long"}
    call = a_call(profile, target, body=orjson.dumps({"model": target.model, **request}))

    decoded = profile.codec(kind).decode(orjson.dumps(answer), call)

    assert decoded.usage is None
    assert decoded.text_chars == chars
