from __future__ import annotations

import signal

import pytest

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.provider", "tests.fixtures.stack"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts what runs in the background; what the tests start would ignore it as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what tests could not try on this machine, by their property `left_out`."""
    for report in terminalreporter.getreports("passed"):
        for name, said in report.user_properties:
            if name == "left_out":
                terminalreporter.write_line(str(said), yellow=True)
