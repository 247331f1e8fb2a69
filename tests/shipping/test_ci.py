"""The workflow and the hooks: read by their schemas, and calling only what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.shipping.published_schemas import assert_fits

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI: Final[dict[str, Any]] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
HOOKS: Final[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())


def steps(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = CI["jobs"][name]["steps"]
    return found


def scripts() -> str:
    return "\n".join(step.get("run", "") for name in CI["jobs"] for step in steps(name))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_each_workflow_is_what_github_reads(file: Path) -> None:
    assert_fits("vendor.github-workflows", file)


def test_actions_are_pinned_to_commits_and_take_no_credential_along() -> None:
    used = [step for name in CI["jobs"] for step in steps(name) if "uses" in step]

    assert used
    for step in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_it_may_read_and_ends() -> None:
    assert CI["permissions"] == {"contents": "read"}
    assert CI["concurrency"]["group"]
    for job in CI["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert "permissions" not in job


def test_what_it_makes_can_be_made() -> None:
    made = set(re.findall(r"^make ([a-z]+)$", scripts(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {"check", "test", "chaos", "up", "audit"} <= made
    assert made <= targets


def test_files_that_it_calls_are_there_and_may_be_run() -> None:
    for name in re.findall(r"(?<![\w/])(\.ci/[\w.-]+)", scripts()):
        assert (ROOT / name).stat().st_mode & 0o100, name


def test_every_server_that_is_promised_is_tested_on() -> None:
    servers = {row["redis"] for row in CI["jobs"]["test"]["strategy"]["matrix"]["include"]}
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["redis"]["image"]
    base = re.search(r"PYTHON_IMAGE=python:(3\.\d+)-", (ROOT / "Dockerfile").read_text())

    assert {"wheel", "redis:7.4", "redis:8.6", "valkey/valkey:8.1"} == servers
    assert base is not None
    assert {"redis": composed.removesuffix("-alpine"), "python": base[1]} in CI["jobs"]["test"]["strategy"][
        "matrix"
    ]["include"]


def test_a_server_out_of_an_image_runs_with_the_libraries_it_came_with(tmp_path: Path) -> None:
    # `docker run --rm --entrypoint sh IMAGE -c ...`: this machine in place of the container.
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\nshift 5\nexec sh "$@"\n')
    docker.chmod(0o755)
    # Any program with libraries will do: the server of these tests may itself be such a script.
    program = shutil.which("tar")
    assert program is not None
    (docker.parent / "redis-server").symlink_to(program)
    done = subprocess.run(
        [ROOT / ".ci" / "redis-server.sh", "redis:8.6", tmp_path / "server"],
        env={"PATH": f"{docker.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    here, there = (
        subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
        for command in (program, done.stdout.strip())
    )

    assert there.stdout == here.stdout != ""


def test_hooks_call_the_tools_that_check_calls() -> None:
    [repo] = HOOKS["repos"]
    called = {hook["entry"].split()[0] for hook in repo["hooks"]}

    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert (Path(sys.prefix) / "bin" / Path(hook["entry"].split()[0]).name).is_file(), hook["entry"]
    checked = re.findall(
        r"^\t\$\(BIN\)/(ruff|lint-imports|mypy)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert {f".venv/bin/{name}" for name in checked} <= called
