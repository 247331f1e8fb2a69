"""Every way a request can fail, as one tree.

    BrokerError                       code on the unified surface        status
    ├── InvalidRequest                validation_error                   400, 422
    │   ├── InvalidJson               validation_error / invalid_json    400
    │   ├── TooComplex                validation_error / too_complex     400
    │   ├── UnsupportedContent        validation_error                   415
    │   └── NoFittingTarget           validation_error                   400
    ├── PayloadTooLarge               payload_too_large                  413
    ├── HeadersTooLarge               validation_error                   431
    ├── AuthenticationFailed          authentication_error               401
    ├── NotAuthorized                 authorization_error                403
    │   └── ModelUnpriced             authorization_error / model_not_priced  403
    ├── NotFound                      not_found_error                    404
    │   └── ModelNotFound             not_found_error / model_not_found  404
    ├── MethodNotAllowed              validation_error                   405
    ├── Conflict                      conflict_error                     409
    │   ├── IdempotencyMismatch       conflict_error                     422
    │   ├── DeadLetterExpired         conflict_error / dead_letter_expired  409
    │   └── JobForgotten              conflict_error / job_deleted       409
    ├── RateLimited                   rate_limit_error                   429
    │   ├── TooManyRequests           rate_limit_error                   429
    │   └── TooManyWaiting            rate_limit_error / too_many_waiting  429
    ├── QuotaExceeded                 quota_exceeded                     429
    ├── Overloaded                    overloaded_error                   503
    │   ├── QueueFull                 overloaded_error / queue_full      503
    │   ├── QueueUnavailable          overloaded_error                   503
    │   ├── WaitTooLong               overloaded_error / wait_too_long   503
    │   ├── NoWorker                  overloaded_error / no_worker       503
    │   └── JobLost                   overloaded_error / job_lost        503
    ├── DeadlineExceeded              timeout_error                      504
    ├── JobCancelled                  conflict_error / job_cancelled     409
    └── ProviderError                 provider_error                     502
        ├── ProviderUnavailable       (5xx, connect, TLS)                502, 503
        ├── ProviderTimeout           timeout_error                      504
        ├── ProviderRateLimited       rate_limit_error                   429
        ├── ProviderRejected          (4xx about the request itself)     as sent
        ├── ProviderCredentialRefused (401, 402, 403 about our key)      502
        ├── ProviderAnswerInvalid     invalid_response                   502
        └── AllProvidersFailed        all_providers_failed               502

A class is a fact: it composes its own sentence and knows its type, code, status
and whether trying again can help. Nobody parses a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class BrokerError(Exception):
    """Root. `type` and `code` are API and stay; the sentence is for people and may change."""

    type: str = "internal_error"
    code: str | None = None
    status: int = 500
    retryable: ClassVar[bool] = False
    """Whether the same job may succeed if a worker tries it again."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after_seconds = retry_after_seconds
        self.headers: list[tuple[bytes, bytes]] = []
        """What the answer says besides, such as how the caller's limits stand."""

    def to_fields(self) -> dict[str, Any]:
        """What a worker stores and the api shows. JSON values only."""
        return {
            "type": self.type,
            "code": self.code,
            "status": self.status,
            "message": self.message,
            "param": self.param,
            "details": self.details,
            "retry_after": self.retry_after_seconds,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> BrokerError:
        error = cls(
            fields["message"],
            param=fields["param"],
            details=fields["details"],
            retry_after_seconds=fields["retry_after"],
        )
        error.type, error.code, error.status = fields["type"], fields["code"], fields["status"]
        return error


class InvalidRequest(BrokerError):
    type, status = "validation_error", 422


class InvalidJson(InvalidRequest):
    code, status = "invalid_json", 400


class TooComplex(InvalidRequest):
    code, status = "too_complex", 400


class BadRequest(InvalidRequest):
    """The HTTP message itself is wrong (headers, framing), before any body is looked at."""

    code, status = "bad_request", 400


class UnsupportedContent(InvalidRequest):
    code, status = "unsupported_content", 415


class NoFittingTarget(InvalidRequest):
    """Of several targets none can take the request. `lacking`: what each one cannot do.

    too_long: whether it is the length of the request alone
    """

    code, status = "no_fitting_target", 400

    def __init__(self, name: str, lacking: Mapping[str, list[str]], *, too_long: bool = False) -> None:
        told = "; ".join(f"{target}: {', '.join(lacks)}" for target, lacks in lacking.items())
        super().__init__(
            f"No target of {name!r} can take this request. What they lack is {told}.",
            param="model",
            details={"lacking": dict(lacking)},
        )
        if too_long:
            self.code = "context_length_exceeded"


class MethodNotAllowed(InvalidRequest):
    code, status = "method_not_allowed", 405


class HeadersTooLarge(InvalidRequest):
    code, status = "headers_too_large", 431


class PayloadTooLarge(BrokerError):
    type, code, status = "payload_too_large", "payload_too_large", 413


class AuthenticationFailed(BrokerError):
    type, code, status = "authentication_error", "invalid_api_key", 401


class NotAuthorized(BrokerError):
    type, code, status = "authorization_error", "forbidden", 403


class ModelUnpriced(NotAuthorized):
    """What it costs cannot be counted, and its caller is held to a budget of money.

    `models`: of the targets that were left. `scope`: of whose budget it is.
    """

    code = "model_not_priced"

    def __init__(self, models: Sequence[str], *, scope: str) -> None:
        told = f"{models[0]} has no price" if len(models) == 1 else f"None of {', '.join(models)} has a price"
        super().__init__(
            f"{told} here, so the monthly budget of this {scope} cannot count what it costs. Ask for a model "
            "that has one (/api/v1/models tells them), or have the operator give it one in the catalogue "
            "file (HEADRACE_CATALOGUE_FILE).",
            param="model",
            details={"unpriced": list(models), "scope": scope},
        )


class NotFound(BrokerError):
    type, code, status = "not_found_error", "not_found", 404


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(BrokerError):
    type, code, status = "conflict_error", "conflict", 409


class IdempotencyMismatch(Conflict):
    code, status = "idempotency_key_reused", 422


class DeadLetterExpired(Conflict):
    """Its job is gone by its TTL: there is nothing left to run again."""

    code = "dead_letter_expired"


class JobForgotten(Conflict):
    """Removed while it was asked for again: the next request with its key runs anew."""

    code, retryable = "job_deleted", True


class JobCancelled(Conflict):
    code = "job_cancelled"


class RateLimited(BrokerError):
    """The caller's own doing: others are served meanwhile."""

    type, code, status = "rate_limit_error", "rate_limit_exceeded", 429


class TooManyRequests(RateLimited):
    """A limit of the caller's that soon leaves room again."""

    retryable = True


class TooManyWaiting(RateLimited):
    """The account's own jobs fill its share of the queue."""

    code = "too_many_waiting"
    retryable = True


class QuotaExceeded(BrokerError):
    """A budget of requests or money is used up until its period ends."""

    type, code, status = "quota_exceeded", "quota_exceeded", 429


class Overloaded(BrokerError):
    type, code, status = "overloaded_error", "overloaded", 503
    retryable = True


class ServerDraining(Overloaded):
    code = "server_draining"


class QueueFull(Overloaded):
    code = "queue_full"


class QueueUnavailable(Overloaded):
    code = "queue_unavailable"


class WaitTooLong(Overloaded):
    """What waits already would outlast this request's deadline."""

    code = "wait_too_long"


class NoWorker(Overloaded):
    """No worker has served the provider for `unserved_seconds`: a job would only wait in vain."""

    code = "no_worker"


class JobLost(Overloaded):
    """The queue forgot an accepted sync job (flushed, failed over): safe to send again."""

    code = "job_lost"


class DeadlineExceeded(BrokerError):
    type, code, status = "timeout_error", "deadline_exceeded", 504


class ProviderError(BrokerError):
    """What a provider did wrong. `provider_status` is its HTTP status, if it sent one."""

    type, code, status = "provider_error", "provider_error", 502
    counts_for_breaker: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        provider_status: int | None = None,
        code: str | None = None,
        status: int | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        details: dict[str, Any] = {"provider": provider}
        if provider_status is not None:
            details["provider_status"] = provider_status
        super().__init__(message, param=param, details=details, retry_after_seconds=retry_after_seconds)
        self.provider = provider
        self.provider_status = provider_status
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class ProviderUnavailable(ProviderError):
    """Connect, TLS, 5xx, 529, or a connection cut before the answer was whole."""

    code, retryable, counts_for_breaker = "provider_unavailable", True, True


class ProviderTimeout(ProviderError):
    """One of our own phase clocks ran out: connect, first byte, idle or total."""

    type, code, status = "timeout_error", "provider_timeout", 504
    retryable, counts_for_breaker = True, True


class ProviderRateLimited(ProviderError):
    type, code, status = "rate_limit_error", "rate_limit_exceeded", 429
    retryable = True


class ProviderRejected(ProviderError):
    """The provider judged the request itself wrong: 400, 404, 413, 422, content filter."""

    code = "provider_rejected"


class ProviderCredentialRefused(ProviderError):
    """Our key at the provider is wrong, forbidden or out of credit. Never a 401 to our caller."""

    code = "provider_credential_refused"


class ProviderAnswerInvalid(ProviderError):
    """The provider answered 200 with something that is not an answer."""

    code, retryable, counts_for_breaker = "invalid_response", True, True


class AllProvidersFailed(ProviderError):
    """Every target of the plan was tried in vain; `details` names them and what each said."""

    code = "all_providers_failed"
