"""URLs that callers want to be called: judged when they are named, and again whenever they are dialled."""

from __future__ import annotations

from shared.egress.rules import EgressFailed, EgressRules, check_url
from shared.requests.checking import fault
from shared.settings import Settings


def check_webhook_url(url: str, settings: Settings, *, field: str = "webhook_url") -> None:
    """Raises InvalidRequest."""
    rules = EgressRules.of(settings.egress, production=settings.environment == "production")
    try:
        check_url(url, rules)
    except EgressFailed:
        raise fault(field, "must be an https address that is public, on port 443 or 8443") from None
