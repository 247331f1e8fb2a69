"""What the pages show runs as it stands, and prints what they say it prints.

For pages with `<!-- run by tests/shipping/test_snippets.py -->`. Against a broker of real processes, whose
provider is the scripted one: as `headrace up` without a provider key.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import pytest

from shared.domain.roles import Role
from shared.ids import AccountId
from tests.acceptance.people import SETTINGS
from tests.contract.second_run import environment_of_packages
from tests.fakes.stack import Stack, start_apart
from tests.shipping.code_blocks import ROOT, Block, commands_of, documented_blocks, is_as_shown

pytestmark = pytest.mark.xdist_group("snippets")

_US: Final = "tests/shipping/test_snippets.py"
_NODE: Final = ROOT / "tests" / "contract" / "node"
_MARK: Final = "\x1e"
_OTHER_LIBRARIES: Final = frozenset(
    f"docs/guides/{name}.md" for name in ("cohere", "instructor", "langchain", "pydantic-ai")
)
"""Pages whose libraries live in an environment of their own."""

_HAMBURG: Final = {
    "tool_calls": [{"name": "City", "arguments": {"name": "Hamburg", "inhabitants": 1_900_000}}]
}

_LINE: Final = (
    '{"custom_id": "17", "method": "POST", "url": "/v1/chat/completions", "body": '
    '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}}\n'
)

Pages = list[list[Block]]


def pages_in(*languages: str, others: bool = False) -> Pages:
    ours = [
        block
        for block in documented_blocks()
        if block.test == _US and block.language in languages and (block.page in _OTHER_LIBRARIES) is others
    ]
    return [list(blocks) for _, blocks in groupby(ours, key=lambda block: block.page)]


@pytest.fixture(scope="module")
def stack(sqlite_template: Path) -> Iterator[Stack]:
    broker = Stack(database_template=sqlite_template, settings=SETTINGS)
    start_apart(broker)
    yield broker
    broker.end_now()


@pytest.fixture
async def environment(stack: Stack, tmp_path: Path) -> dict[str, str]:
    await stack.provider.script(_HAMBURG, match="Hamburg", repeat=True)
    for name in ("requests.jsonl", "input.jsonl"):
        (tmp_path / name).write_text(_LINE, encoding="utf-8")
    inherited = {
        name: text for name, text in os.environ.items() if not name.startswith(("PYTEST_", "HEADRACE_"))
    }
    return {
        **inherited,
        "HEADRACE_URL": stack.url,
        "HEADRACE_API_KEY": await stack.new_api_key(AccountId("acc_reader"), role=Role.ADMIN),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def as_run(block: Block, environment: dict[str, str]) -> str:
    """The address and the key that a page shows are those of the reader's broker."""
    text = block.text
    for shown, real in {
        "http://127.0.0.1:8000": environment["HEADRACE_URL"],
        'api_key="..."': f'api_key="{environment["HEADRACE_API_KEY"]}"',
        'api_key="gw_live_..."': f'api_key="{environment["HEADRACE_API_KEY"]}"',
        '"sk-ant-..."': '"sk-ant-a-key-of-the-tests-xyz"',
        "time.sleep(10)": "time.sleep(0.1)",
        "time.sleep(1)": "time.sleep(0.1)",
    }.items():
        text = text.replace(shown, real)
    if "%{http_code}" not in text:
        # A refusal is a fault of the page, unless the page is about its status.
        text = text.replace("curl -s", "curl --fail-with-body -s")
    return text


def wrong(block: Block, printed: str, ended_by: str = "") -> list[str]:
    if ended_by:
        return [f"{block.place}: {ended_by}"]
    if block.output is not None and not is_as_shown(printed, block.output):
        return [f"{block.place}: printed {printed!r}, shown is {block.output!r}"]
    return []


def run_python(python: Path, pages: Pages, environment: dict[str, str], folder: Path) -> None:
    asked = [[as_run(block, environment) for block in page] for page in pages]

    done = subprocess.run(
        [str(python), str(ROOT / "tests" / "shipping" / "run_python_blocks.py")],
        input=json.dumps(asked),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    faults = [
        fault
        for page, told in zip(pages, json.loads(done.stdout), strict=True)
        for block, one in zip(page, told, strict=True)
        for fault in wrong(block, one["printed"], one["ended_by"])
    ]
    assert not faults, "\n".join(faults)


def test_blocks_in_python_run(environment: dict[str, str], tmp_path: Path) -> None:
    pages = pages_in("python")

    assert len(pages) >= 2
    run_python(Path(sys.executable), pages, environment, tmp_path)


@pytest.mark.timeout(600)
def test_blocks_for_libraries_around_the_official_clients_run(
    environment: dict[str, str], tmp_path: Path
) -> None:
    pages = pages_in("python", others=True)

    assert {page[0].page for page in pages} == _OTHER_LIBRARIES
    run_python(environment_of_packages("clients"), pages, environment, tmp_path)


def test_blocks_in_javascript_run(
    environment: dict[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each page is a module, so that its blocks share their names."""
    if shutil.which("node") is None:
        record_property("left_out", "node is not installed: documented JavaScript was not run")
        return
    pages = pages_in("javascript", "js")
    (tmp_path / "node_modules").symlink_to(_NODE / "node_modules")
    faults = []

    assert len(pages) >= 3
    for number, page in enumerate(pages):
        module = tmp_path / f"page{number}.mjs"
        between = f"console.log({json.dumps(_MARK)});\n"
        module.write_text(between.join(as_run(block, environment) for block in page), encoding="utf-8")
        done = subprocess.run(
            ["node", module.name],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        faults += as_printed(page, done)

    assert not faults, "\n".join(faults)


def test_blocks_for_a_shell_run(environment: dict[str, str], tmp_path: Path) -> None:
    """Each page is a script that ends at the first command that fails."""
    pages = pages_in("sh", "bash", "shell")
    faults = []

    assert len(pages) >= 3
    for page in pages:
        between = f"\nprintf '%s\\n' '{_MARK}'\n"
        script = between.join(as_run(block, environment) for block in page)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        faults += as_printed(page, done)

    assert not faults, "\n".join(faults)


def as_printed(page: list[Block], done: subprocess.CompletedProcess[str]) -> list[str]:
    if done.returncode != 0:
        return [f"{page[0].page}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"]
    printed = done.stdout.split(f"{_MARK}\n")
    return [fault for block, one in zip(page, printed, strict=True) for fault in wrong(block, one)]


def test_commands_of_a_console_run(environment: dict[str, str], tmp_path: Path) -> None:
    """And print what is shown below them."""
    faults = []
    for page in pages_in("console"):
        for block in page:
            for command, shown in commands_of(as_run(block, environment)):
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", command],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                if done.returncode != 0 or (shown and not is_as_shown(done.stdout, shown)):
                    faults.append(f"{block.place}: {command}\n{done.stdout}\n{done.stderr}")

    assert not faults, "\n".join(faults)
