"""What a stored response lists of its input, right or not."""

from __future__ import annotations

from typing import Any

import pytest

from api.openai_v1.responses_stored import StoredResponse, input_items
from shared.domain.job import JobState
from tests.integration.queue.support import a_job


@pytest.mark.parametrize(
    ("item", "listed"),
    [
        ({"id": "msg_123"}, {"id": "msg_123", "type": "item_reference"}),
        ({"role": "user"}, {"type": "message", "content": [], "status": "completed"}),
        ({"type": "message"}, {"type": "message", "content": [], "status": "completed"}),
        ({"type": "what"}, {"type": "what", "status": "completed"}),
    ],
    ids=str,
)
def test_input_that_was_refused_is_listed_as_it_came(item: dict[str, Any], listed: dict[str, Any]) -> None:
    found = StoredResponse(a_job(), JobState.FAILED, None, {"input": [item]})

    (one,) = input_items(found)

    assert one["id"]
    assert {**one, **listed} == one
