"""The other pages of docs/operations: commands work, figures were measured, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.doctor.examine import SUBJECTS, is_known
from tests.shipping.documented import OPERATIONS, headings_with_shell, run_shell, shell_of

ROOT = OPERATIONS.parents[1]
PAGES = (
    "index",
    "doctor",
    "backup",
    "upgrades",
    "secrets",
    "capacity",
    "balancers",
    "regions",
    "clouds",
    "metrics",
)
MEASURED = (
    *("0.19", "0.23", "0.14 ms", "4.6", "2.1 KB", "645 MB", "10 to 25 %"),
    *("110", "214", "423", "143", "162", "121", "132", "2,484", "2,893"),
)


def text_of(page: str) -> str:
    return (OPERATIONS / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", headings_with_shell("doctor.md"))
async def test_the_doctor_s_commands_work(tmp_path: Path, heading: str) -> None:
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

    said = await run_shell(shell_of("doctor.md", heading), environment, tmp_path)

    assert "STATE" in said or "The settings can be used." in said


def test_the_figures_of_capacity_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    capacity = text_of("capacity")

    for figure in MEASURED:
        assert figure in capacity, figure
        if figure != "10 to 25 %":  # told there kind by kind
            assert figure in measured, figure
    for rate, api, worker, redis in re.findall(
        r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \|$", capacity, re.MULTILINE
    ):
        calls = int(rate.replace(",", ""))
        assert float(api) == round(calls * 0.19e-3, 2)
        assert float(worker) == round(calls * 0.23e-3, 2)
        assert float(redis) == pytest.approx(calls * 0.14e-3 * 100)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)):
        assert (OPERATIONS / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_are_settings(page: str) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name in set(re.findall(r"\bHEADRACE_[A-Z0-9_]+\b", text_of(page))) - {"HEADRACE_"}:
        assert f"#{name}=" in example, name


def test_checks_that_are_named_are_checks() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"`([a-z]+\.[a-z_]+)`", text_of(page))
        if not name.endswith((".db", ".conf", ".py"))
    }

    assert named
    assert {name for name in named if not is_known(name)} == set(), SUBJECTS


def test_migrations_only_add_as_the_page_on_upgrades_says() -> None:
    versions = sorted((ROOT / "shared" / "db" / "migrations" / "versions").glob("0*.py"))

    taking_away = [
        file.name
        for file in versions
        if re.search(r"\b(drop|rename)_\w+\(", file.read_text(encoding="utf-8").split("def downgrade")[0])
    ]

    assert len(versions) > 5
    assert taking_away == []
