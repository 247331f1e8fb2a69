"""The end of a request: its reply is forgotten, and so is its job if the caller left it."""

from __future__ import annotations

from api.deps import Broker
from api.replies import Reply
from shared.errors import DeadlineExceeded


class Departure:
    """Called when the request is over, any number of times; only the first one counts.

    `keep_job`: the job goes on without its caller. `accepted`: there is a job to stop at all.
    """

    def __init__(self, via: Broker, reply: Reply, *, keep_job: bool) -> None:
        self._via = via
        self._reply = reply
        self._keep_job = keep_job
        self._left = False
        self.accepted = False

    def __call__(self) -> None:
        if self._left:
            return
        self._left = True
        reply = self._reply
        self._via.replies.forget(reply)
        if not self.accepted or self._keep_job or reply.result is not None:
            return
        # Past its deadline nobody can come back for it; otherwise a reconnect may resume it.
        past = isinstance(reply.error, DeadlineExceeded)
        grace = 0.0 if past else self._via.settings.api.disconnect_grace_seconds
        self._via.replies.cancel_abandoned(reply, after_seconds=grace)
