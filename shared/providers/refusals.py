"""What a provider's error means to us, whichever of their error forms it came in.

    400 404 413 422        about the caller's request: ProviderRejected, their words kept
    403 of a moderation    the same, as 400 with code content_filter
    401 402 403, no quota  about our key: ProviderCredentialRefused, 502
    429                    ProviderRateLimited, 429
    503 529                ProviderUnavailable, 503
    408 and other 5xx      ProviderUnavailable, 502
    the rest               ProviderError, 502: our configuration, trying again is no use

The sentence is ours. Only what a caller can act upon (message, param and code of
the first row) is passed on; a raw body never is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from shared.errors import (
    ProviderCredentialRefused,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from shared.providers.profile import ProviderProfile
from shared.providers.retry_after import MAX_SECONDS, retry_after_seconds

MAX_MESSAGE_CHARS: Final = 1000
CONTEXT_LENGTH: Final = "context_length_exceeded"
CONTENT_FILTER: Final = "content_filter"
"""Codes of ours for what another provider, or a longer model, might take."""
OURS: Final = "The gateway's"
THE_ACCOUNTS: Final = "The account's own"
"""Whose key was refused."""
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
_PARAM: Final = re.compile(r"[\x20-\x7e]{1,200}\Z")

_ABOUT_THE_REQUEST: Final = frozenset({400, 404, 413, 422})
_OVERLOADED: Final = frozenset({503, 529})
_OUT_OF_CREDIT: Final = frozenset(
    {"insufficient_quota", "billing_error", "billing_hard_limit_reached", "budget_exceeded"}
)
# A 400 of type invalid_request_error, about our account all the same; the sentence is
# the only sign. Recorded in public threads of anthropics/claude-code, 2026-06.
_ANTHROPIC_OUT_OF_CREDIT: Final = "Your credit balance is too low"

# xAI has no code for either: a 429 or 403 for the first, a 400 for the second.
# Recorded in public threads of continuedev/continue, 2026-02, and openai/codex, 2025-06.
_XAI_OUT_OF_CREDIT: Final = "used all available credits"
_XAI_WRONG_KEY: Final = "Incorrect API key provided"

_TOO_LONG: Final = re.compile(
    r"maximum context length|prompt is too long|context (?:length|window) (?:of|exceeded|limit)"
    r"|exceeds? (?:the |this )?(?:model's )?(?:maximum )?context|inputs?` must have less than|prompt length",
    re.IGNORECASE,
)
"""How those without a code for it say that a prompt does not fit: vLLM, Anthropic, DeepSeek, TGI, xAI.
Met in their public threads, 2025 and 2026.
"""

_ACCOUNT_TROUBLE: Final = frozenset(
    {"organization_on_hold", "cmek_key_disabled", "cmek_key_network_blocked", "account_deactivated"}
)
"""Codes of a 400 that is not about the request. anthropic-python 2.11, types/shared/error_details.py."""

_STATUS_OF_SIGN: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    CONTEXT_LENGTH: 400,
    CONTENT_FILTER: 400,
    "authentication_error": 401,
    "auth_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "InternalServerError": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # TGI's error_type.
    "validation": 422,
    "overloaded": 429,
}
"""The HTTP status a `code` or `type` stands for, where an error came without one of its own."""

_STATUS_OF_AWS: Final[Mapping[str, int]] = {
    "ThrottlingException": 429,
    "ModelNotReadyException": 503,
    "UnrecognizedClientException": 403,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InvalidSignatureException": 403,
}
"""Codes of AWS that come with a 400 (or 429) and mean something else."""
# In this header and often nowhere else: SageMaker's throttling is a 400 with {"message": null}.
# opensearch-project/ml-commons#2429; how to read it: aws-amplify core, clients/serde/json.ts.
_AWS_ERROR: Final = "x-amzn-errortype"


@dataclass(frozen=True, slots=True)
class ErrorFields:
    """What could be read from an error body; `found` is False when it was none we know."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    param: str | None = None
    status: int | None = None
    """A status written inside the body: vLLM and OpenRouter put it into `code`."""
    estimated_seconds: float | None = None
    """How long a model still loads, as Hugging Face tells beside the error."""
    in_flight_budget: bool = False
    """OpenRouter's 402 while calls that run hold the credit: it comes back with them."""
    moderated: bool = False
    """OpenRouter's 403: the prompt was flagged, the key is fine."""
    found: bool = False

    @property
    def is_out_of_credit(self) -> bool:
        return (
            self.code in _OUT_OF_CREDIT
            or self.type in _OUT_OF_CREDIT
            or (self.message or "").startswith(_ANTHROPIC_OUT_OF_CREDIT)
            or _XAI_OUT_OF_CREDIT in (self.message or "")
        )

    @property
    def is_about_our_key(self) -> bool:
        return (
            self.is_out_of_credit
            or self.code in _ACCOUNT_TROUBLE
            or (self.message or "").startswith(_XAI_WRONG_KEY)
        )


def from_http(
    status: int, headers: Mapping[str, str], body: bytes, *, profile: ProviderProfile, whose: str = OURS
) -> ProviderError:
    """The error of an HTTP answer. Never raises: bodies may be HTML, empty or cut."""
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        document: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    fields = read_fields(document)
    if _AWS_ERROR in lowered:
        fields = _from_aws(document if isinstance(document, dict) else {}, lowered[_AWS_ERROR])
    answered, status = status, _STATUS_OF_AWS.get(fields.code or "", status)
    if status == 424:
        # The model behind the endpoint failed; SageMaker tells how.
        original = fields.status
        status = original if original in _ABOUT_THE_REQUEST or original in {429, 503} else 502
    wish = retry_after_seconds(lowered)
    if wish is None and fields.estimated_seconds is not None:
        wish = min(fields.estimated_seconds, MAX_SECONDS)
    return _refusal(status, fields, profile, answered=answered, retry_after=wish, whose=whose)


def from_event(document: object, *, profile: ProviderProfile) -> ProviderError:
    """The error of a document that came with status 200: a stream event, or a plain answer."""
    fields = read_fields(document)
    status = fields.status or _STATUS_OF_SIGN.get(fields.code or "") or _STATUS_OF_SIGN.get(fields.type or "")
    return _refusal(status or 500, fields, profile, answered=None, retry_after=None)


def read_fields(document: object) -> ErrorFields:
    """Reads every form met so far.

    {"error": {message, type, param, code}}   OpenAI, Anthropic, vLLM, OpenRouter
    {"error": "text" | ["text"]}              Hugging Face; xAI with `code` beside it
    {"object": "error", message, ...}         vLLM before 0.10
    {"error": "text", "error_type": ...}      TGI
    {"Message": "text", "Code": ...}          AWS; ErrorCode and OriginalStatusCode for a model's own
    {"detail": "text" | [{loc, msg}]}         FastAPI
    """
    if not isinstance(document, dict):
        return ErrorFields()
    error = document.get("error")
    if isinstance(error, dict):
        return _fields(error)
    if isinstance(error, list) and error and isinstance(error[0], str):
        error = error[0]
    if isinstance(error, str):
        fields = _fields({"message": error, "code": document.get("code"), "type": document.get("error_type")})
        return replace(fields, estimated_seconds=_seconds(document.get("estimated_time")))
    detail = document.get("detail")
    if detail == "Not Found":
        # Starlette's words for a path it does not serve, such as a vLLM base URL without /v1.
        return ErrorFields()
    if isinstance(detail, str):
        return _fields({"message": detail})
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return _fields(_from_fastapi(detail[0]))
    if isinstance(document.get("message"), str):
        return _fields(document)
    if isinstance(document.get("Message"), str):
        return _from_aws(document, document.get("Code") or document.get("ErrorCode"))
    return ErrorFields()


def _from_aws(document: Mapping[str, Any], kind: object) -> ErrorFields:
    """What the model behind an endpoint said, as far as it said anything.

    AWS's own sentences are left out: they name the operator's account and where its logs are.
    """
    name = kind.partition(":")[0].rpartition("#")[2] if isinstance(kind, str) else None
    try:
        said = read_fields(orjson.loads(document.get("OriginalMessage") or "null"))
    except orjson.JSONDecodeError:
        said = ErrorFields()
    return replace(
        said,
        code=said.code or _matching(_CODE, name),
        status=_status(document.get("OriginalStatusCode")),
        found=True,
    )


def _from_fastapi(first: Mapping[str, Any]) -> dict[str, object]:
    where = first.get("loc")
    steps = [str(step) for step in where if step != "body"] if isinstance(where, list) else []
    return {"message": first.get("msg"), "param": ".".join(steps)}


def _fields(error: Mapping[str, Any]) -> ErrorFields:
    code = error.get("code")
    details = error.get("details")
    if code is None and isinstance(details, dict):
        code = details.get("error_code")
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return ErrorFields(
        message=_sentence(error.get("message")),
        type=_matching(_CODE, error.get("type")),
        code=_matching(_CODE, code),
        param=_matching(_PARAM, error.get("param")),
        status=_status(code),
        in_flight_budget=metadata.get("limit_source") == "openrouter_in_flight_budget",
        moderated=isinstance(metadata.get("reasons"), list) or metadata.get("error_type") == "moderation",
        found=True,
    )


def _request_code(status: int, fields: ErrorFields) -> str | None:
    if status == 404:
        return fields.code or "model_not_found"
    if status in {400, 413, 422} and _TOO_LONG.search(fields.message or ""):
        return CONTEXT_LENGTH
    return fields.code


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    # LiteLLM writes the word None where it means null.
    return value if isinstance(value, str) and value != "None" and pattern.match(value) else None


def _sentence(message: object) -> str | None:
    if not isinstance(message, str):
        return None
    cut = message[:MAX_MESSAGE_CHARS]
    return "".join(char if char.isprintable() else " " for char in cut).strip() or None


def _status(code: object) -> int | None:
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else None


def _refusal(
    status: int,
    fields: ErrorFields,
    profile: ProviderProfile,
    *,
    answered: int | None,
    retry_after: float | None,
    whose: str = OURS,
) -> ProviderError:
    name, provider = profile.name, profile.id
    if fields.in_flight_budget:
        status = 429
    if (status == 403 and fields.moderated) or fields.code == CONTENT_FILTER:
        return ProviderRejected(
            fields.message or f"{name} filtered the request.",
            provider=provider,
            provider_status=answered,
            code=CONTENT_FILTER,
            status=400,
            param=fields.param,
        )
    if status in {401, 402, 403} or fields.is_about_our_key:
        reason = "is out of credit" if status == 402 or fields.is_out_of_credit else "was refused"
        return ProviderCredentialRefused(
            f"{whose} key at {name} {reason}.",
            provider=provider,
            provider_status=answered,
            retry_after_seconds=retry_after,
        )
    if status in _ABOUT_THE_REQUEST and (fields.found or status in {413, 422}):
        return ProviderRejected(
            fields.message or f"{name} rejected the request ({status}).",
            provider=provider,
            provider_status=answered,
            code=_request_code(status, fields),
            status=status,
            param=fields.param,
        )
    if status == 429:
        return ProviderRateLimited(
            f"{name} limits the rate of requests.",
            provider=provider,
            provider_status=answered,
            retry_after_seconds=retry_after,
        )
    if status in _OVERLOADED:
        return ProviderUnavailable(
            f"{name} is overloaded.",
            provider=provider,
            provider_status=answered,
            status=503,
            retry_after_seconds=retry_after,
        )
    if status == 408 or status >= 500:
        return ProviderUnavailable(
            f"{name} failed to answer." if answered is None else f"{name} failed to answer ({answered}).",
            provider=provider,
            provider_status=answered,
            retry_after_seconds=retry_after,
        )
    # A 404 in no known form is a wrong base URL, a 400 one is a proxy's page: not the caller's doing.
    return ProviderError(
        f"{name} gave an unexpected answer ({status}); is its base URL right?",
        provider=provider,
        provider_status=answered,
    )
