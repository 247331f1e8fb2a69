"""The shell commands of a page, to run them as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.fakes import server_binaries

OPERATIONS: Final = Path(__file__).parents[2] / "docs" / "operations"


def shell_of(page: str, heading: str) -> str:
    """What the `sh` blocks below `## heading` say."""
    text = (OPERATIONS / page).read_text(encoding="utf-8")
    section = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks, heading
    return "".join(blocks)


def headings_with_shell(page: str) -> list[str]:
    sections = (OPERATIONS / page).read_text(encoding="utf-8").split("\n## ")[1:]
    return [section.splitlines()[0] for section in sections if "```sh\n" in section]


async def run_shell(script: str, environment: Mapping[str, str], folder: Path) -> str:
    """Stops at the first command that fails, and tells what it said."""
    # A server's own folder has redis-cli and pg_dump beside it.
    folders = [
        Path(sys.prefix) / "bin",
        server_binaries.postgres_bin(),
        server_binaries.redis_server().parent,
    ]
    path = [*map(str, folders), os.environ["PATH"]]
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        env={**environment, "PATH": os.pathsep.join(path)},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{script}\n{out.decode()}"
    return out.decode()
