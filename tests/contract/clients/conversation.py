"""What the tests say through the clients."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import BaseModel

OPENAI: Final = "gpt-4o-mini"
ANTHROPIC: Final = "anthropic/claude-haiku-4-5"
BOTH: Final = (OPENAI, ANTHROPIC)
"""A model of each dialect that providers speak: callers see one form."""
VECTORS: Final = "library/plain"


class City(BaseModel):
    """A city and its people."""

    name: str
    inhabitants: int


HAMBURG: Final = City(name="Hamburg", inhabitants=1_900_000)


def script(prompt: str = "", /, **cue: Any) -> str:
    """A text that tells the scripted provider what to do; its fields are in cues.py."""
    return f"!script {json.dumps(cue)}\n{prompt}"


def calling(name: str, /, **arguments: Any) -> str:
    """A text at which the model calls this tool."""
    return script(tool_calls=[{"name": name, "arguments": arguments}])
