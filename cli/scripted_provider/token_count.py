"""Anthropic's count of tokens: a prompt in, one number out."""

from typing import Any

from cli.scripted_provider import anthropic
from cli.scripted_provider.anthropic import (
    render_error,
    render_error_frame,
    render_headers,
    render_model,
    render_models,
)
from cli.scripted_provider.dialect import Answer, Prompt

__all__ = [
    "read_prompt",
    "render_answer",
    "render_error",
    "render_error_frame",
    "render_frames",
    "render_headers",
    "render_model",
    "render_models",
]


def read_prompt(body: dict[str, Any]) -> Prompt:
    """Raises BadPrompt."""
    return anthropic.read_prompt({**body, "max_tokens": 1, "stream": False})


def render_answer(answer: Answer) -> bytes:
    return b'{"input_tokens":%d}' % answer.prompt_tokens


def render_frames(answer: Answer) -> list[bytes]:
    """Never asked for: a count does not stream."""
    return [render_answer(answer)]
