"""Where the tests find tools that no Python package carries: promtool, kubectl, nginx, HAProxy.

A test never skips for want of one: it fails and says how to get it. A tool on PATH is taken; else,
as root on Debian, apt-get installs its package.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fakes.server_binaries import ServerMissing, install_from_debian


@dataclass(frozen=True, slots=True)
class Tool:
    """`package`: the Debian package that has it, or None where Debian's is too old to use."""

    name: str
    package: str | None
    hint: str

    def path(self) -> Path:
        """Raises ServerMissing, with the line that says how to get it."""
        found = self._on_path()
        if found is None and self.package is not None and install_from_debian(self.package):
            found = self._on_path()
        if found is None:
            raise ServerMissing(f"No {self.name} found. {self.hint}")
        return found

    def _on_path(self) -> Path | None:
        # Debian keeps daemons in folders that a user's PATH may lack.
        found = shutil.which(self.name) or shutil.which(self.name, path="/usr/sbin:/usr/local/sbin")
        return None if found is None else Path(found)


PROMTOOL: Final = Tool("promtool", "prometheus", "apt-get install prometheus, or brew install prometheus.")
PROMETHEUS: Final = Tool("prometheus", "prometheus", PROMTOOL.hint)
NGINX: Final = Tool("nginx", "nginx", "apt-get install nginx, or brew install nginx.")
HAPROXY: Final = Tool("haproxy", "haproxy", "apt-get install haproxy, or brew install haproxy.")
KUBECTL: Final = Tool(
    "kubectl", None, "Get 1.27 or newer as kubernetes.io/docs/tasks/tools says (brew install kubectl)."
)
