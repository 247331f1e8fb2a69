from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.domain.job import Target
from shared.errors import NotFound, ProviderCredentialRefused, ProviderError
from shared.providers.credentials import Credentials
from shared.providers.custom import ProvidersFileInvalid
from shared.providers.profile import AccountLimits, Bearer, Capability, HeaderKey, origin_of
from shared.providers.registry import BUILT_IN, Registry
from shared.settings import Settings

PROVIDERS = """
[[endpoint]]
id = "lab"
name = "Lab cluster"
base_url = "https://lab.example/v1/"
api_key = "lab-secret"
models = ["phi-4", "org/mistral-7b"]
capabilities = ["chat", "stream", "vision"]

[[endpoint]]
id = "open_door"
base_url = "http://127.0.0.1:9000"

[[endpoint]]
id = "keyed"
base_url = "https://keyed.example"
api_key_env = "KEYED_API_KEY"

[providers.openai]
base_url = "https://proxy.example/v1"
"""


@pytest.fixture
def providers_file(tmp_path: Path) -> Path:
    path = tmp_path / "providers.toml"
    path.write_text(PROVIDERS)
    return path


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in BUILT_IN:
        monkeypatch.delenv(f"{provider.upper()}_API_KEY", raising=False)
        monkeypatch.delenv(f"{provider.upper()}_BASE_URL", raising=False)
    monkeypatch.delenv("KEYED_API_KEY", raising=False)


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def test_the_built_in_providers_are_there_and_none_is_configured_by_itself() -> None:
    registry = Registry.from_settings(settings())

    assert list(registry.profiles) == [
        *("openai", "anthropic", "deepseek", "xai", "openrouter", "litellm"),
        *("nvidia_nim", "perplexity", "huggingface", "vllm"),
    ]
    assert registry.configured() == []


@pytest.mark.parametrize("profile", BUILT_IN.values(), ids=BUILT_IN)
def test_a_built_in_profile_is_complete(profile: Any) -> None:
    assert profile.id in BUILT_IN
    assert {Capability.CHAT, Capability.STREAM} <= profile.capabilities
    assert profile.docs.startswith("https://")
    assert profile.base_url.startswith("https://") or profile.self_hosted
    assert not profile.base_url.endswith("/")


def test_a_key_or_an_address_of_ones_own_configures_a_provider() -> None:
    registry = Registry.from_settings(settings(ANTHROPIC_API_KEY="k", VLLM_BASE_URL="http://gpu.example/v1"))

    assert registry.configured() == ["anthropic", "vllm"]
    assert registry.get("vllm").url("/chat/completions") == "http://gpu.example/v1/chat/completions"


def test_a_provider_without_an_address_says_so_when_called() -> None:
    with pytest.raises(ProviderError, match="vLLM has no base URL"):
        Registry.from_settings(settings()).get("vllm").url("/chat/completions")


def test_an_unknown_provider_is_not_found() -> None:
    with pytest.raises(NotFound):
        Registry.from_settings(settings()).get("acme")


def test_an_operators_endpoints_stand_beside_the_built_in_ones(providers_file: Path) -> None:
    registry = Registry.from_settings(settings(providers_file=providers_file))

    lab = registry.get("lab")
    assert (lab.name, lab.base_url, lab.self_hosted) == ("Lab cluster", "https://lab.example/v1", True)
    assert lab.models == ("phi-4", "org/mistral-7b")
    assert lab.capabilities == {Capability.CHAT, Capability.STREAM, Capability.VISION}
    assert registry.get("open_door").name == "open_door"
    assert registry.configured() == ["lab", "open_door"]


def test_a_key_named_by_its_variable_is_read_from_there(
    providers_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYED_API_KEY", " keyed-secret\n")
    given = settings(providers_file=providers_file)
    registry = Registry.from_settings(given)

    headers = Credentials.from_settings(given, registry).headers(Target("keyed", "m"), registry.get("keyed"))

    assert headers == {"authorization": "Bearer keyed-secret"}
    assert "keyed" in registry.configured()


def test_the_environment_wins_over_the_file(providers_file: Path) -> None:
    from_file = Registry.from_settings(settings(providers_file=providers_file))
    from_both = Registry.from_settings(
        settings(providers_file=providers_file, OPENAI_BASE_URL="http://other.example/v1/")
    )

    assert from_file.get("openai").base_url == "https://proxy.example/v1"
    assert from_both.get("openai").base_url == "http://other.example/v1"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "https://",
        "https://user:pw@a.example",
        "https://a.example?x=1",
        "https://a.ex ample",
        "x",
    ],
)
def test_an_address_that_is_none_is_refused_by_its_name(url: str) -> None:
    with pytest.raises(ValueError, match="OPENAI_BASE_URL"):
        Registry.from_settings(settings(OPENAI_BASE_URL=url))


ENDPOINT = '[[endpoint]]\nid = "lab"\nbase_url = "https://lab.example"\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[endpoint", "not TOML"),
        ('[[endpoint]]\nid = "lab"', "endpoint 'lab', base_url: Field required"),
        ('[[endpoint]]\nbase_url = "https://lab.example"', "endpoint number 1, id: Field required"),
        (
            '[[endpoint]]\nid = "Lab"\nbase_url = "https://lab.example"',
            "endpoint 'Lab', id: String should match",
        ),
        (f'[[endpoint]]\nid = "{"x" * 33}"\nbase_url = "https://l.example"', "id: String should match"),
        (
            '[[endpoint]]\nid = "lab"\nbase_url = "lab.example"',
            "endpoint 'lab', base_url: Value error, must be an",
        ),
        (ENDPOINT + 'capabilities = ["flying"]', "endpoint 'lab', capabilities"),
        (ENDPOINT + 'modells = ["a"]', "endpoint 'lab', modells: Extra inputs"),
        (ENDPOINT + 'models = ["a b"]', "endpoint 'lab', models, 0"),
        (ENDPOINT + 'api_key = "s3cret"\napi_key_env = "A"', "give api_key or api_key_env, not both"),
        (ENDPOINT + ENDPOINT, "endpoint 'lab': this id is used twice"),
        (ENDPOINT.replace("lab", "openai", 1), "endpoint 'openai': this id belongs to a built-in"),
        ('[providers.acme]\nbase_url = "https://a.example"', "providers, acme: no built-in provider"),
        ('[providers.openai]\nbase_url = "a.example"', "providers, openai, base_url"),
        ("[providers.openai]\nlimits = { concurrent = 0 }", "providers, openai, limits, concurrent"),
        (ENDPOINT + "limits = { per_day = 1 }", "endpoint 'lab', limits, per_day"),
        ("endpoint = 3", "endpoint: "),
        ("surprise = 3", "surprise: Extra inputs"),
    ],
)
def test_a_wrong_file_names_the_entry_and_shows_no_secret(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(text)

    with pytest.raises(ProvidersFileInvalid) as caught:
        Registry.from_settings(settings(providers_file=path))

    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_limits_are_those_of_an_account_and_need_no_other_address(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(
        ENDPOINT + "limits = { concurrent = 4 }\n[providers.openai]\nlimits = { requests_per_minute = 500 }"
    )

    profiles = Registry.from_settings(settings(providers_file=path)).profiles

    assert profiles["lab"].limits == AccountLimits(concurrent=4)
    assert profiles["openai"].limits == AccountLimits(requests_per_minute=500)
    assert profiles["openai"].base_url == BUILT_IN["openai"].base_url
    assert profiles["anthropic"].limits is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvidersFileInvalid, match="nowhere"):
        Registry.from_settings(settings(providers_file=tmp_path / "nowhere.toml"))


def test_a_credential_travels_as_its_provider_wants_it() -> None:
    given = settings(OPENAI_API_KEY="o", ANTHROPIC_API_KEY="a")
    registry, credentials = Registry.from_settings(given), Credentials.from_settings(given)

    assert credentials.headers(Target("openai", "m"), registry.get("openai")) == {"authorization": "Bearer o"}
    assert credentials.headers(Target("anthropic", "m"), registry.get("anthropic")) == {"x-api-key": "a"}
    assert credentials.headers(Target("vllm", "m"), registry.get("vllm")) == {}


def test_a_credential_is_never_sent_to_another_origin() -> None:
    given = settings(OPENAI_API_KEY="o")
    elsewhere = Registry.from_settings(given).get("openai").with_base_url("https://evil.example/v1")

    with pytest.raises(ProviderCredentialRefused, match="another address"):
        Credentials.from_settings(given).headers(Target("openai", "m"), elsewhere)


def test_a_missing_credential_is_ours_to_explain() -> None:
    given = settings()
    registry, credentials = Registry.from_settings(given), Credentials.from_settings(given)

    with pytest.raises(ProviderCredentialRefused, match="No key is configured for OpenAI"):
        credentials.headers(Target("openai", "m"), registry.get("openai"))
    with pytest.raises(ProviderCredentialRefused):
        credentials.headers(Target("vllm", "m", credential="second"), registry.get("vllm"))


def test_a_credential_is_found_by_its_target_and_not_shown() -> None:
    credentials = Credentials.from_settings(settings(OPENAI_API_KEY="o-secret"))

    found = credentials.resolve(Target("openai", "m"))

    assert found is not None
    assert found.get_secret_value() == "o-secret"
    assert "o-secret" not in repr(found)
    assert credentials.resolve(Target("openai", "m", credential="second")) is None
    assert credentials.resolve(Target("anthropic", "m")) is None


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example/v1", "https://a.example:443"),
        ("http://a.example", "http://a.example:80"),
        ("http://a.example:8000/v1", "http://a.example:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("", ""),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_secrets_travel_in_the_header_of_their_kind() -> None:
    assert Bearer().headers("s") == {"authorization": "Bearer s"}
    assert HeaderKey("x-api-key").headers("s") == {"x-api-key": "s"}
