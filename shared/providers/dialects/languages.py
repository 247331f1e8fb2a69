"""The languages themselves: which codec speaks which kind of job."""

from __future__ import annotations

from typing import Final

from shared.domain.job import JobKind
from shared.providers.dialect import Dialect
from shared.providers.dialects.anthropic import chat_as_messages
from shared.providers.dialects.openai_chat import openai_chat

OPENAI: Final = Dialect("openai", {JobKind.CHAT: openai_chat})
ANTHROPIC: Final = Dialect("anthropic", {JobKind.CHAT: chat_as_messages})
