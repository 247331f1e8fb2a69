"""Who may operate the broker: whoever holds HEADRACE_ADMIN_TOKEN. API keys are for inference."""

from __future__ import annotations

import hmac

from loguru import logger
from starlette.requests import Request

from api.deps import broker_of, request_id_of, token_of
from shared.errors import AuthenticationFailed, NotAuthorized


async def require_admin(request: Request) -> None:
    """Raises AuthenticationFailed; NotAuthorized where the token is a good API key."""
    via = broker_of(request)
    token = token_of(request.scope)
    expected = via.settings.admin_token
    # As bytes, since text of other letters than ASCII cannot be compared in constant time.
    if expected is not None and hmac.compare_digest(
        token.encode("latin-1"), expected.get_secret_value().encode()
    ):
        return
    logger.warning("admin refused", request_id=request_id_of(request.scope), path=request.url.path)
    try:
        await via.keys.resolve(token)
    except AuthenticationFailed:
        raise AuthenticationFailed("The admin token is wrong.") from None
    raise NotAuthorized("An API key may not do this: it takes the admin token.")
