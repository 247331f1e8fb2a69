"""Endpoints an operator configured, in four forms, and other addresses for built-in providers.

[[endpoint]]
id = "lab"                                # ^[a-z][a-z0-9_]{0,31}$, what stands before the slash in lab/phi-4
name = "Lab cluster"                      # for people; the id when left out
base_url = "https://lab.example/v1"
api_key_env = "LAB_API_KEY"               # or api_key = "..."; neither for an open endpoint
models = ["phi-4"]                        # names that need no "lab/" before them
capabilities = ["chat", "stream"]
headers = { x-team = "nlp" }              # sent with every call
limits = { requests_per_minute = 500, tokens_per_minute = 200000, concurrent = 16 }  # all workers together
form = "openai"                           # or "http", "tgi", "sagemaker": see docs/providers.md

[providers.openai]
base_url = "https://proxy.example/v1"     # OPENAI_BASE_URL wins over it
limits = { requests_per_minute = 500 }    # either may be left out
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)

from shared.providers.dialect import Dialect
from shared.providers.dialects import languages
from shared.providers.dialects.http_json import HttpJson
from shared.providers.dialects.openai_chat import openai_chat
from shared.providers.dialects.prompt_templates import TemplateName
from shared.providers.dialects.sagemaker import Invocation
from shared.providers.dialects.tgi import Tgi
from shared.providers.presets import Preset
from shared.providers.profile import AccountLimits, Auth, Bearer, Capability, ProviderProfile
from shared.providers.sigv4 import SigV4
from shared.settings import environment_variable

ID_PATTERN: Final = r"^[a-z][a-z0-9_]{0,31}$"


class ProvidersFileInvalid(ValueError):
    """The providers file cannot be used; the sentence names the file, the entry and the field."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        super().__init__(f"{path}: " + "; ".join(problems))
        self.problems = problems


def check_base_url(url: str) -> str:
    """The URL without trailing slashes. Raises ValueError unless it is plain http(s) up to the path."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user name or password")
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a plain URL without a query or fragment")
    _ = parts.port  # raises ValueError for one outside 0..65535
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(check_base_url)]
ModelName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


Pointer = Annotated[str, Field(pattern=r"^(/([^~/]|~[01])*)*$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_FORMS: Final = ("openai", "http", "tgi", "sagemaker")

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OUR_HEADERS: Final = frozenset(
    {
        *("authorization", "host", "content-length", "content-type", "transfer-encoding", "connection"),
        # What comes back is read as it is.
        "accept-encoding",
    }
)


def _check_form(form: object) -> object:
    if form != "openai":
        raise ValueError(f"must be one of {', '.join(_FORMS)}")
    return form


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError("must be header names with values of printable ASCII")
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"must not set {name.lower()}")
    return {name.lower(): value for name, value in headers.items()}


def _check_template(template: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError unless it is JSON with the caller's text somewhere in it."""
    try:
        text = json.dumps(template, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValueError("must hold text, numbers, booleans, lists and tables alone") from exc
    if '"{prompt}"' not in text and '"{messages}"' not in text:
        raise ValueError('must have "{prompt}" or "{messages}" as a value')
    return template


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Entry):
    """Of one account at a provider, for all workers together."""

    requests_per_minute: PositiveInt | None = None
    input_tokens_per_minute: PositiveInt | None = None
    output_tokens_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    concurrent: PositiveInt | None = None

    def of_account(self) -> AccountLimits | None:
        """None when nothing is limited."""
        limits = AccountLimits(**self.model_dump())
        return None if limits == AccountLimits() else limits


class _Endpoint(_Entry):
    """What entries of every form have."""

    id: Annotated[str, Field(pattern=ID_PATTERN)]
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    models: tuple[ModelName, ...] = ()
    capabilities: frozenset[Capability] = frozenset({Capability.CHAT, Capability.STREAM})
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] = {}
    limits: Limits = Limits()

    def _profile(self, base_url: str, dialect: Dialect, *, auth: Auth, keyed: bool) -> ProviderProfile:
        return ProviderProfile(
            id=self.id,
            name=self.name or self.id,
            base_url=base_url,
            auth=auth,
            dialect=dialect,
            capabilities=self.capabilities,
            headers=self.headers,
            models=self.models,
            models_path="/models" if dialect is languages.OPENAI else "",
            credential_required=keyed,
            self_hosted=True,
            limits=self.limits.of_account(),
        )


class _KeyedEndpoint(_Endpoint):
    base_url: BaseUrl
    api_key_env: EnvironmentName | None = None
    api_key: SecretStr | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("give api_key or api_key_env, not both")
        return self

    def secret(self) -> SecretStr | None:
        if self.api_key_env is None:
            return self.api_key
        return SecretStr(environment_variable(self.api_key_env) or "")

    def _bearer_profile(self, dialect: Dialect) -> ProviderProfile:
        keyed = self.api_key is not None or self.api_key_env is not None
        return self._profile(self.base_url, dialect, auth=Bearer(), keyed=keyed)


class OpenAiEndpoint(_KeyedEndpoint):
    form: Annotated[Literal["openai"], BeforeValidator(_check_form)] = "openai"

    def profile(self) -> ProviderProfile:
        return self._bearer_profile(languages.OPENAI)


class HttpEndpoint(_KeyedEndpoint):
    form: Literal["http"]
    path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*/?$")]
    request: Annotated[dict[str, Any], AfterValidator(_check_template)]
    answer: Pointer
    error: Pointer | None = None
    template: TemplateName = "plain"

    def profile(self) -> ProviderProfile:
        codec = HttpJson(self.path, self.request, self.answer, self.template, self.error)
        return replace(self._bearer_profile(languages.through_chat("http", codec)), streams=False)


class TgiEndpoint(_KeyedEndpoint):
    form: Literal["tgi"]
    template: TemplateName = "plain"

    def profile(self) -> ProviderProfile:
        return self._bearer_profile(languages.through_chat("tgi", Tgi(self.template)))


class SageMakerEndpoint(_Endpoint):
    form: Literal["sagemaker"]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z0-9]+)+$")]
    endpoint_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9](-*[A-Za-z0-9]){0,62}$")]
    base_url: BaseUrl | None = None
    access_key_env: EnvironmentName
    secret_key_env: EnvironmentName
    session_token_env: EnvironmentName | None = None
    body: Literal["openai", "tgi"] = "openai"
    template: TemplateName = "plain"

    def secret(self) -> SecretStr | None:
        """What `SigV4` signs with; None while any part of it is missing."""
        names = [self.access_key_env, self.secret_key_env, self.session_token_env]
        parts = [(environment_variable(name) or "").strip() for name in names if name is not None]
        return SecretStr(" ".join(parts)) if all(parts) else None

    def profile(self) -> ProviderProfile:
        inner = openai_chat if self.body == "openai" else Tgi(self.template)
        dialect = languages.through_chat("sagemaker", Invocation(inner, self.endpoint_name))
        base_url = self.base_url or f"https://runtime.sagemaker.{self.region}.amazonaws.com"
        auth = SigV4(self.region, "sagemaker")
        return replace(self._profile(base_url, dialect, auth=auth, keyed=True), streams=False)


def _form_of(entry: object) -> str:
    form = entry.get("form", "openai") if isinstance(entry, dict) else "openai"
    return form if isinstance(form, str) and form in _FORMS else "openai"


Endpoint = Annotated[
    Annotated[OpenAiEndpoint, Tag("openai")]
    | Annotated[HttpEndpoint, Tag("http")]
    | Annotated[TgiEndpoint, Tag("tgi")]
    | Annotated[SageMakerEndpoint, Tag("sagemaker")],
    Discriminator(_form_of),
]


class BuiltInOverride(_Entry):
    base_url: BaseUrl | None = None
    limits: Limits = Limits()


class ProvidersFile(_Entry):
    endpoint: tuple[Endpoint, ...] = ()
    providers: dict[str, BuiltInOverride] = {}
    preset: tuple[Preset, ...] = ()


def read_providers_file(path: Path, *, built_in: Collection[str]) -> ProvidersFile:
    """Raises ProvidersFileInvalid, with every problem found."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ProvidersFileInvalid(path, [exc.strerror or "cannot be read"]) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ProvidersFileInvalid(path, [f"not TOML: {exc}"]) from exc
    try:
        file = ProvidersFile.model_validate(document)
    except ValidationError as exc:
        # The input is left out of the message: it may be a key.
        problems = [
            f"{_entry_name(document, error['loc'])}: {error['msg']}"
            for error in exc.errors(include_input=False)
        ]
        raise ProvidersFileInvalid(path, problems) from None
    if problems := _clashes(file, built_in):
        raise ProvidersFileInvalid(path, problems)
    return file


def _entry_name(document: dict[str, object], location: tuple[int | str, ...]) -> str:
    """`endpoint 'lab', base_url` rather than `endpoint.0.base_url`."""
    steps = [str(step) for step in location]
    kind = steps[0] if steps else ""
    if len(location) >= 2 and kind in {"endpoint", "preset"} and isinstance(location[1], int):
        entries = document.get(kind)
        entry = entries[location[1]] if isinstance(entries, list) else None
        name = entry.get("id" if kind == "endpoint" else "name") if isinstance(entry, dict) else None
        if kind == "endpoint" and len(location) > 2 and location[2] in _FORMS:
            # Which of the forms it was read as; the entry says so itself.
            del steps[2]
        steps[:2] = [f"{kind} {name!r}" if isinstance(name, str) else f"{kind} number {location[1] + 1}"]
    return ", ".join(steps) or "the file"


def _clashes(file: ProvidersFile, built_in: Collection[str]) -> list[str]:
    problems = []
    seen: set[str] = set()
    for endpoint in file.endpoint:
        if endpoint.id in built_in:
            problems.append(f"endpoint {endpoint.id!r}: this id belongs to a built-in provider")
        if endpoint.id in seen:
            problems.append(f"endpoint {endpoint.id!r}: this id is used twice")
        seen.add(endpoint.id)
    names = [preset.name for preset in file.preset]
    problems += [
        f"preset {name!r}: this name is used twice" for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    problems += [
        f"preset {preset.name!r}, model: must name a model, not a preset"
        for preset in file.preset
        if preset.model in names
    ]
    problems += [
        f"providers, {name}: no built-in provider has this id; there are {', '.join(sorted(built_in))}"
        for name in file.providers
        if name not in built_in
    ]
    return problems
