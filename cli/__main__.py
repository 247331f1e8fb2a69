"""The `headrace` command, also `python -m cli`: imports what it needs, then runs it."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    # What imports make stays: looking for garbage among it was a third of the start.
    gc.disable()
    if sys.argv[1:2] == ["health"]:
        # A probe, run every few seconds: the other commands are three quarters of its time.
        from cli.health import main as run  # noqa: PLC0415 - not before the collector is off
    else:
        from cli.main import main as run  # noqa: PLC0415 - not before the collector is off

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
