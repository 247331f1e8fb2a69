"""The end of a request: its reply is forgotten, and so is its job if the caller left it."""

from __future__ import annotations

from api.deps import Broker
from api.replies import Reply
from shared.errors import DeadlineExceeded, QueueUnavailable
from shared.limits.admission import FREE, Admitted


class Departure:
    """Called when the request is over, any number of times; only the first one counts.

    `accepted`: whether there is, or may be, a job to leave.
    """

    def __init__(self, via: Broker, reply: Reply, admitted: Admitted = FREE) -> None:
        self._via = via
        self._reply = reply
        self._admitted = admitted
        self._left = False
        self.accepted = False

    def __call__(self, error: BaseException | None = None) -> None:
        if self._left:
            return
        self._left = True
        reply = self._reply
        self._via.replies.forget(reply)
        if reply.result is not None:
            self._admitted.end()
        if not self.accepted or reply.result is not None:
            return
        # Past its deadline nobody can come back for a job, nor when its id was never told;
        # otherwise a reconnect may resume it.
        lost = isinstance(error or reply.error, DeadlineExceeded | QueueUnavailable)
        self._via.replies.leave(
            reply, grace_seconds=0.0 if lost else self._via.settings.api.disconnect_grace_seconds
        )
