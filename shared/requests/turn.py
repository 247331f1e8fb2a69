"""What a request weighs among those that wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.domain.job import JobKind

_ANSWER_TOKENS: Final = 256
"""Of a request that does not limit its answer, for its tenant's turn in the queue."""
_BYTES_A_TOKEN: Final = 4


def cost_of(kind: JobKind, document: Mapping[str, Any], body_bytes: int) -> int:
    """Tokens that the tenant's turn pays for: a rough guess, at least 1. Relative size is what counts."""
    answer = 0
    if kind not in {JobKind.EMBEDDINGS, JobKind.RERANK, JobKind.COUNT_TOKENS}:
        answer = _ANSWER_TOKENS
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            limit = document.get(name)
            if isinstance(limit, int) and limit > 0:
                answer = limit
                break
    return 1 + body_bytes // _BYTES_A_TOKEN + min(answer, 1_000_000)
