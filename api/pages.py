"""Cursors: where a page ended, as text that a caller hands back."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import Final

from api.moments import in_utc
from shared.requests.checking import fault

_ID: Final = re.compile(r"[a-z]{2,6}_[0-9a-f]{8,64}\Z")


def cursor_of(at: datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{row_id}".encode()).decode()


def place_of(cursor: str | None) -> tuple[datetime, str] | None:
    """Raises InvalidRequest for one that was never given out."""
    if cursor is None:
        return None
    wrong = fault("cursor", "is none that was given out here")
    try:
        at, _, row_id = base64.urlsafe_b64decode(cursor.encode()).decode("ascii").partition("|")
        moment = in_utc(datetime.fromisoformat(at))
    except (ValueError, binascii.Error):
        raise wrong from None
    if not _ID.match(row_id):
        raise wrong
    return moment, row_id
