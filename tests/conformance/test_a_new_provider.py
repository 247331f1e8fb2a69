"""What it takes to add a provider: its file, its line in the registry, its golden folder. Nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
_LEFT_OUT: Final = shutil.ignore_patterns("node_modules", "*.pyc.*")
"""Compiled files come along, which saves compiling all of it, but none that is just being written."""
ACME: Final = """
from shared.providers.dialects import languages
from shared.providers.profile import CHAT_MODEL, Bearer, Capability, ProviderProfile

PROFILE = ProviderProfile(
    id="acme",
    name="Acme",
    base_url="https://api.acme.example/v1",
    auth=Bearer(),
    dialect=languages.OPENAI,
    capabilities=CHAT_MODEL | {Capability.EMBEDDINGS},
    renames={"max_completion_tokens": "max_tokens"},
    refuses=frozenset({"logit_bias"}),
    key_variables=("ACME_API_KEY",),
    base_url_variable="ACME_BASE_URL",
)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources with a provider more in it, whose golden folder is not there yet."""
    for package in ("shared", "workers", "api", "scheduler", "cli", "tests"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=_LEFT_OUT)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    providers = tmp_path / "shared" / "providers"
    (providers / "acme.py").write_text(ACME)
    registry = (providers / "registry.py").read_text()
    registry = registry.replace("    anthropic,\n", "    acme,\n    anthropic,\n", 1)
    registry = registry.replace("            openai,\n", "            openai,\n            acme,\n", 1)
    (providers / "registry.py").write_text(registry)
    return tmp_path


def conformance(tree: Path, only: str = "acme") -> subprocess.CompletedProcess[str]:
    """The suite, on that provider alone."""
    command = [sys.executable, "-m", "pytest", "tests/conformance", "-qp", "no:cacheprovider", "-k", only]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_provider_is_its_file_a_line_and_a_golden_folder(tree: Path) -> None:
    shutil.copytree(tree / "tests" / "golden" / "openai", tree / "tests" / "golden" / "acme")

    ran = conformance(tree)

    assert ran.returncode == 0, ran.stdout[-4000:]
    passed = int(ran.stdout.rsplit(" passed", 1)[0].rsplit(maxsplit=1)[-1])
    assert passed > 100


def test_a_provider_without_golden_bodies_is_told_what_to_add(tree: Path) -> None:
    ran = conformance(tree, "acme and golden_folder_is_complete")

    assert ran.returncode == 1
    assert "Add README.md, text.json, text.sse" in ran.stdout
    assert "to tests/golden/acme/" in ran.stdout
