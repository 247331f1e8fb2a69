"""OpenAI-compatible endpoints an operator configured, and other addresses for built-in providers.

[[endpoint]]
id = "lab"                                # ^[a-z][a-z0-9_]{0,31}$, what stands before the slash in lab/phi-4
name = "Lab cluster"                      # for people; the id when left out
base_url = "https://lab.example/v1"
api_key_env = "LAB_API_KEY"               # or api_key = "..."; neither for an open endpoint
models = ["phi-4"]                        # names that need no "lab/" before them
capabilities = ["chat", "stream"]

[providers.openai]
base_url = "https://proxy.example/v1"     # OPENAI_BASE_URL wins over it
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from shared.providers.dialects import languages
from shared.providers.profile import Bearer, Capability, ProviderProfile

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


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Endpoint(_Entry):
    id: Annotated[str, Field(pattern=ID_PATTERN)]
    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    base_url: BaseUrl
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    api_key: SecretStr | None = None
    models: tuple[ModelName, ...] = ()
    capabilities: frozenset[Capability] = frozenset({Capability.CHAT, Capability.STREAM})

    @model_validator(mode="after")
    def _one_key(self) -> Endpoint:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("give api_key or api_key_env, not both")
        return self

    def profile(self) -> ProviderProfile:
        return ProviderProfile(
            id=self.id,
            name=self.name or self.id,
            base_url=self.base_url,
            auth=Bearer(),
            dialect=languages.OPENAI,
            capabilities=self.capabilities,
            models=self.models,
            credential_required=self.api_key is not None or self.api_key_env is not None,
            self_hosted=True,
        )


class BuiltInOverride(_Entry):
    base_url: BaseUrl


class ProvidersFile(_Entry):
    endpoint: tuple[Endpoint, ...] = ()
    providers: dict[str, BuiltInOverride] = {}


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
    if len(location) >= 2 and location[0] == "endpoint" and isinstance(location[1], int):
        entries = document.get("endpoint")
        entry = entries[location[1]] if isinstance(entries, list) else None
        name = entry.get("id") if isinstance(entry, dict) else None
        steps[:2] = [f"endpoint {name!r}" if isinstance(name, str) else f"endpoint number {location[1] + 1}"]
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
    problems += [
        f"providers, {name}: no built-in provider has this id; there are {', '.join(sorted(built_in))}"
        for name in file.providers
        if name not in built_in
    ]
    return problems
