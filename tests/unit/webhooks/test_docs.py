"""docs/webhooks.md and the API name the events that there are, and the schedule as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from api.account_v1.webhook_schemas import EventName
from api.account_v1.webhooks import MAX_ENDPOINTS
from shared.webhooks.disabling import Because
from shared.webhooks.events import SUBSCRIBABLE, EventType
from shared.webhooks.schedule import SCHEDULE
from shared.webhooks.sending import ERRORS

PAGE = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")


def test_the_api_takes_the_events_that_can_be_wanted() -> None:
    assert get_args(EventName) == tuple(SUBSCRIBABLE)


def test_every_event_is_explained_and_none_that_is_not_there() -> None:
    table = re.findall(r"`([a-z]+\.[a-z]+)`", PAGE.split("## Events")[1].split("## Receiving")[0])

    assert set(table) == set(EventType)


def test_every_word_of_an_answer_is_explained() -> None:
    words = [*ERRORS, Because.GONE, Because.FAILING]

    assert [word for word in words if f"`{word}`" not in PAGE] == []


def test_the_schedule_and_the_limits_are_those_of_the_code() -> None:
    numbers = re.search(
        r"again (\d+) seconds, (\d+) minutes, (\d+) minutes, (.*) and (\d+) hours later", PAGE
    )
    assert numbers is not None
    seconds, minutes, more_minutes, hours, last = numbers.groups()
    told = [int(seconds), int(minutes) * 60, int(more_minutes) * 60]
    told += [int(hour) * 3600 for hour in (*hours.split(", "), last)]
    assert told == [pause.total_seconds() for pause in SCHEDULE]
    assert f"at most {MAX_ENDPOINTS} endpoints" in PAGE
