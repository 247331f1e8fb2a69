"""Who may operate the broker: whoever holds HEADRACE_ADMIN_TOKEN, and operators by their own keys and
sessions.
"""

from __future__ import annotations

import hmac
from typing import Final

from loguru import logger
from starlette.requests import Request

from api.deps import broker_of, request_id_of, token_of
from shared.domain.roles import Permission
from shared.errors import AuthenticationFailed, NotAuthorized

HOLDER: Final = "holder of the admin token"
"""The actor of what was done with HEADRACE_ADMIN_TOKEN, which is nobody's own."""


async def require_admin(request: Request) -> str:
    """Who it is: an id, or HOLDER.

    Raises AuthenticationFailed; NotAuthorized where the token is good, and not an operator's.
    """
    via = broker_of(request)
    token = token_of(request.scope)
    expected = via.settings.admin_token
    # As bytes, since text of other letters than ASCII cannot be compared in constant time.
    if expected is not None and hmac.compare_digest(
        token.encode("latin-1"), expected.get_secret_value().encode()
    ):
        return HOLDER
    try:
        principal = await via.keys.resolve(token)
    except AuthenticationFailed:
        _warn(request)
        raise AuthenticationFailed("The admin token is wrong.") from None
    if not principal.may(Permission.OPERATE):
        _warn(request)
        raise NotAuthorized("This takes the admin token, or a key or session of an operator.")
    return principal.user or principal.api_key


def _warn(request: Request) -> None:
    logger.warning("admin refused", request_id=request_id_of(request.scope), path=request.url.path)
