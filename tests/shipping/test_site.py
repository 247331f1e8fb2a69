"""The documentation site: it builds strictly, shows every page, leads nowhere wrong, needs nobody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.hooks.api_reference import anchor_of, document
from docs.hooks.error_reference import codes
from docs.hooks.links import rewritten
from docs.hooks.navigation import navigation
from docs.hooks.settings_reference import settings
from shared.settings import Settings
from tests.shipping.code_blocks import LANGUAGES, ROOT, Block, blocks_in, documented_blocks, not_run, pages

pytestmark = pytest.mark.xdist_group("site")


class Html(HTMLParser):
    """Ids, links, and what a browser would fetch."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if "id" in told:
            self.ids.add(told["id"])
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        elif tag == "link" and told.get("rel") != "canonical":
            self.fetched.append(told.get("href", ""))
        elif "src" in told:
            self.fetched.append(told["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it, into a folder of the test's own."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        # Never with --quiet: warnings that are not shown are not counted either.
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    written = {page.relative_to(ROOT / "docs") for page in pages() if page.is_relative_to(ROOT / "docs")}
    home = Html(site / "index.html")

    listed = {link.split("#")[0] for link in home.links}

    assert len(written) > 40
    assert {str(page.with_suffix(".html")) for page in written} - listed == set()


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    built = list(site.rglob("*.html"))

    fetched = {address for page in built for address in Html(page).fetched}

    assert len(built) > 60
    assert [address for address in fetched if re.match(r"(https?:)?//", address)] == []
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?://[^)]*\)", styles) == []


def test_every_internal_link_leads_to_a_page_and_a_place_on_it(site: Path) -> None:
    """The strict build looks at Markdown alone; this one at what was made of it."""
    built = {page.resolve(): Html(page) for page in site.rglob("*.html") if page.name != "404.html"}
    wrong = []
    for page, html in built.items():
        for link in html.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            address, _, place = link.partition("#")
            target = (page.parent / address).resolve() if address else page
            if target.is_dir():
                target /= "index.html"
            found = built.get(target)
            if found is None and not target.exists():
                wrong.append(f"{page.relative_to(site)}: {link}")
            elif found is not None and place and place not in found.ids and not place.startswith("__"):
                wrong.append(f"{page.relative_to(site)}: {link}: no such place")

    assert len(built) > 60
    assert not wrong, "\n".join(wrong[:40])


def test_the_reference_lists_every_route(site: Path) -> None:
    openapi = document()
    routes = {anchor_of(method, path) for path, methods in openapi["paths"].items() for method in methods}
    described = {place for page in (site / "reference" / "api").glob("*.html") for place in Html(page).ids}

    assert len(routes) > 100
    assert routes - described == set()


def test_the_reference_has_every_setting_every_error_and_every_command(site: Path) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = {one.name.lower() for group in settings(example).values() for one in group}

    assert len(named) > len(Settings.model_fields)
    assert named - Html(site / "reference" / "settings.html").ids == set()
    assert {f"{one.code}-{one.status}" for one in codes()} - Html(
        site / "reference" / "errors.html"
    ).ids == set()
    commands = Html(site / "reference" / "commands.html").ids
    assert {"headrace-up", "headrace-jobs-submit", "headrace-db-upgrade"} - commands == set()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_of_the_repository(page: Path) -> None:
    """Which is how they are read where there is no site."""
    made = ("reference/", "decisions/index.md")
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)

    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if not re.match(r"[a-z]+:", target) and not any(part in target for part in made):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# what the hooks decide


def test_a_page_that_nobody_gave_a_place_is_in_the_navigation_all_the_same() -> None:
    nav = navigation(["index.md", "unheard-of.md", "operations/unheard-of.md", "operations/alerts/stuck.md"])

    assert {"More": ["unheard-of.md"]} in nav
    assert {"Operations": [{"Alerts": ["operations/alerts/stuck.md"]}, "operations/unheard-of.md"]} in nav


def test_links_out_of_the_documentation_lead_to_the_code() -> None:
    text = "[a](api/submit.py) [b](docs/jobs.md#x) [c](docs/nowhere.md)\n```\n[d](api/submit.py)\n```\n"

    shown = rewritten(text, written_in="README.md", shown_as="index.md")

    assert "/blob/main/api/submit.py)" in shown
    assert "(jobs.md#x)" in shown
    assert "(docs/nowhere.md)" in shown
    assert "\n[d](api/submit.py)\n" in shown


# what runs the blocks


def claim_of(block: Block) -> str:
    """Why this block needs nobody's attention, or "" where it does."""
    if block.test is not None:
        return block.test
    return next((one.reason for one in not_run() if one.is_about(block)), "")


def test_every_block_that_could_be_run_is_run_or_has_a_reason_why_not() -> None:
    """Put `<!-- run by tests/... -->` before it and run it there, or list it in blocks_not_run.toml."""
    blocks = documented_blocks()

    assert len(blocks) > 40
    assert [block.place for block in blocks if not claim_of(block)] == []


def test_no_command_hides_in_a_block_without_a_language() -> None:
    hidden = [
        block.place
        for page in pages()
        for block in blocks_in(page.read_text(encoding="utf-8"), page.name)
        if block.language not in LANGUAGES and re.search(r"^\$ ", block.text, re.MULTILINE)
    ]

    assert hidden == []


def test_a_test_that_claims_a_block_is_there_and_knows_the_page() -> None:
    wrong = []
    for block in documented_blocks():
        if block.test is None:
            continue
        test = ROOT / block.test
        if not test.is_file():
            wrong.append(f"{block.place}: there is no {block.test}")
            continue
        source = test.read_text(encoding="utf-8")
        finds_all = test.name == "test_snippets.py"
        if not finds_all and Path(block.page).name not in source and Path(block.page).stem not in source:
            wrong.append(f"{block.place}: {block.test} does not mention {Path(block.page).name}")

    assert not wrong, "\n".join(wrong)


def test_every_reason_is_about_a_block_that_is_there_and_claimed_by_no_test() -> None:
    blocks = documented_blocks()

    stale = [one for one in not_run() if not any(one.is_about(block) and not block.test for block in blocks)]

    assert stale == []
    assert all(len(one.reason) > 20 for one in not_run())


def test_a_comment_claims_the_block_behind_it_or_the_page() -> None:
    text = "<!-- run by a.py -->\n```sh\none\n```\n\n```text\nshown\n```\n\n```sh\ntwo\n```\n"

    first, second = blocks_in(text, "x.md")
    (of_page,) = blocks_in(f"<!-- run by b.py -->\n\n# Title\n\n{text.split('-->')[1]}", "x.md")[1:]

    assert (first.test, first.output, second.test) == ("a.py", "shown\n", None)
    assert of_page.test == "b.py"
