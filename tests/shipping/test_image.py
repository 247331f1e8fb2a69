"""The image, without a container engine: its Dockerfile linted, its steps run, what they make started.

The steps run in a folder that holds what .dockerignore lets through and nothing else, and what they
install is then used by another user, who may write to the data folder alone.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.eventually import eventually
from tests.fakes.server_process import free_port
from tests.shipping import dockerfile
from tests.shipping.dockerfile import ROOT

TEXT: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
USER: Final = 10_001

pytestmark = pytest.mark.timeout(400)  # the first time, packages are fetched


@dataclass(frozen=True, slots=True)
class Image:
    """`root` stands for /: the broker is below opt/headrace, and `data` is /data."""

    root: Path
    environment: dict[str, str]

    @property
    def data(self) -> Path:
        return self.root / "data"

    def command(self, *words: str) -> list[str]:
        program = [str(self.root / "opt" / "headrace" / "bin" / "headrace"), *words]
        if os.getuid() != 0:
            return program
        # As the image's user, who may read root's interpreter on this machine, and write nothing.
        capability = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
        return [
            *("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", *capability),
            *program,
        ]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env={**self.environment, **environment},
            cwd=self.root / "opt" / "headrace",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """What it says goes to `<its first word>.log`."""
        with (self.root / f"{words[0]}.log").open("w") as log:
            return subprocess.Popen(
                self.command(*words),
                env={**self.environment, **environment},
                cwd=self.root / "opt" / "headrace",
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    root = Path(tempfile.mkdtemp(prefix="headrace-image-"))
    try:
        yield _built(root)
    finally:
        for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
            path.chmod(0o700)
        shutil.rmtree(root)


def _built(root: Path) -> Image:
    build, last = dockerfile.stages(TEXT)
    context, workdir = root / "context", root / "build"
    for file in dockerfile.sent(ROOT):
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, context / file)
    workdir.mkdir()
    for instruction in build:
        if instruction.name == "COPY":
            dockerfile.copy(instruction.said, context, workdir)
        elif instruction.name == "RUN":
            _run(re.sub(r"^(--\S+\s+)+", "", instruction.said), root, workdir)
    data = root / "data"
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(data, USER, USER)
        root.chmod(0o755)
    for path in (root / "opt").rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    said = {
        name: value.replace("$PATH", os.environ["PATH"])
        for name, value in dockerfile.environment(last).items()
    }
    said = {name: _here(value, root) for name, value in said.items()}
    return Image(root, {**said, "HEADRACE_DATA_DIR": str(data), "HOME": str(data)})


def _here(text: str, root: Path) -> str:
    return text.replace("/opt/", f"{root}/opt/")


def _run(step: str, root: Path, workdir: Path) -> None:
    # `python` is what the suite runs on: the base's own is elsewhere.
    bin_folder = root / "bin"
    bin_folder.mkdir(exist_ok=True)
    python = bin_folder / "python"
    if not python.exists():
        base = Path(sys.base_prefix) / "bin" / "python3"
        python.symlink_to(base)
    (root / "opt").mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    done = subprocess.run(
        ["sh", "-ec", _here(step, root)],
        env={**clean, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        cwd=workdir,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{step}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / "hadolint", "--failure-threshold", "style", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_the_builder_is_sent_code_and_locks_alone() -> None:
    files = [file.as_posix() for file in dockerfile.sent(ROOT)]

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {file.split("/")[0] for file in files} == {
        *packages["packages"],
        *("LICENSE", "README.md", "pyproject.toml", "requirements"),
    }
    assert [file for file in files if file.startswith("requirements/")] == [
        "requirements/build.txt",
        "requirements/runtime.txt",
    ]
    assert not [file for file in files if "__pycache__" in file or file.endswith((".pyc", ".env"))]


def test_the_base_is_pinned_and_the_user_is_a_number_that_is_not_root() -> None:
    [base] = [one.said for one in dockerfile.instructions(TEXT) if one.said.startswith("PYTHON_IMAGE=")]
    _, last = dockerfile.stages(TEXT)
    said = {one.name: one.said for one in last}

    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
    assert {one.said.split(" AS ")[0] for one in dockerfile.instructions(TEXT) if one.name == "FROM"} == {
        "${PYTHON_IMAGE}"
    }
    assert said["USER"] == f"{USER}:{USER}"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert dockerfile.words(said["ENTRYPOINT"]) == ["headrace"]
    health = said["HEALTHCHECK"].split(" CMD ")[1]
    assert dockerfile.words(health) == ["headrace", "health"]


def test_the_label_says_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f"ARG HEADRACE_VERSION={version}" in TEXT


def test_what_the_steps_install_is_what_is_locked(image: Image) -> None:
    site = next((image.root / "opt" / "headrace" / "lib").glob("python3*/site-packages"))
    found = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in (info.stem.rsplit("-", 1) for info in site.glob("*.dist-info"))
    }
    lock = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, re.MULTILINE))

    assert found.pop("headrace") in TEXT
    assert set(found.items()) <= set(locked.items())
    assert {"fastapi", "uvloop", "hiredis", "aiohttp"} <= set(found)
    assert "pip" not in found
    assert list(site.glob("shared/queue/scripts/*.lua"))
    assert {path.name for path in site.glob("api/dashboard/static/*")} >= {
        "index.html",
        "main.js",
        "style.css",
    }
    assert list(site.glob("api/__pycache__/main.*.pyc"))


def test_the_command_runs_where_nothing_can_be_written(image: Image) -> None:
    helped = image.run("--help")

    assert helped.returncode == 0, helped.stderr
    assert "worker" in helped.stdout


def test_without_a_secret_it_refuses_as_in_production(image: Image) -> None:
    refused = image.run("api")

    assert refused.returncode == os.EX_CONFIG
    assert "HEADRACE_KEY_PEPPER" in refused.stderr


async def test_the_database_is_migrated_and_an_api_serves_on_any_port(image: Image, redis_url: str) -> None:
    port, metrics = free_port(), free_port()
    settings = {
        "HEADRACE_ENVIRONMENT": "development",
        "HEADRACE_KEY_PEPPER": os.urandom(16).hex(),
        "REDIS_URL": redis_url,
        "PORT": str(port),
        "HEADRACE_METRICS_PORT": str(metrics),
    }
    before = _state(image.root / "opt")

    migrated = image.run("db", "upgrade", **settings)
    assert migrated.returncode == 0, migrated.stderr
    api = image.start("api", **settings)
    try:
        await eventually(lambda: listens(port), "an api that listens", within=90)
        ready = image.run("health", "--ready", **settings)
        assert ready.returncode == 0, ready.stderr
        assert f"127.0.0.1:{port}/health/ready: 200" in ready.stdout
    finally:
        api.terminate()
        code = api.wait(30)

    assert code == 0, (image.root / "api.log").read_text()
    assert image.run("health", **settings).returncode == 1
    assert _state(image.root / "opt") == before
    assert (image.data / "headrace.db").exists()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _state(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in folder.rglob("*")}
