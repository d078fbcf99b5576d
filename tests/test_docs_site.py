"""The site: built strictly, complete, and asking nobody for anything; its figures, and the README."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from tests.docs_pages import DOCS, PAGES, ROOT, blocks, load_script

FIGURES = load_script("make_figures")
# Places from which a browser fetches by itself: a link is none of them.
FETCHED = re.compile(
    r'<(?:script|img|iframe|source)[^>]+src="(https?:|//)|<link[^>]+href="(https?:|//)|url\(["\']?(https?:|//)'
)
QUICK = sorted(set(FIGURES.DRAWN) - set(FIGURES.EMBEDDING))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    built = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html"}
    assert built == pages
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [entry for part in navigation for entries in part.values() for entry in entries]
    named = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    assert sorted(Path(name).with_suffix(".html").as_posix() for name in named) == sorted(pages)


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    files = [path for suffix in ("html", "css", "svg") for path in site.rglob(f"*.{suffix}")]
    assert len(files) > 40
    fetching = {path.name: found[0] for path in files if (found := FETCHED.search(path.read_text(encoding="utf-8")))}
    assert fetching == {}
    assert FETCHED.search('<script src="https://cdn.example/x.js">')
    assert "mermaid" not in {block.language for block in blocks()}, "Material fetches its script from elsewhere"


def test_formulas_are_mathml(site: Path) -> None:
    told = sum(block.page.startswith("docs/") for block in blocks("math"))
    drawn = sum(page.read_text(encoding="utf-8").count("<math ") for page in site.rglob("*.html"))
    assert drawn == told > 10
    formulas = "".join(
        "".join(re.findall(r"<math .*?</math>", page.read_text(encoding="utf-8"), re.DOTALL))
        for page in site.rglob("*.html")
    )
    assert "\\" not in formulas, "LaTeX that is not understood"


def test_figures_are_those_of_the_script() -> None:
    told = {name for page in PAGES for name in re.findall(r"figures/(\w+)\.svg", page.read_text(encoding="utf-8"))}
    assert told == {path.stem for path in (DOCS / "figures").iterdir()} == {*FIGURES.DRAWN, FIGURES.FUNNEL}


@pytest.mark.parametrize("name", QUICK)
def test_figure_is_what_the_script_draws(name: str, tmp_path: Path) -> None:
    drawn = FIGURES.draw(name, FIGURES.DRAWN[name], tmp_path)
    kept = DOCS / "figures" / f"{name}.svg"
    assert words_of(drawn) == words_of(kept), "run `make figures`"
    assert places_of(drawn) == pytest.approx(places_of(kept), abs=1), "run `make figures`"


def test_funnel_is_drawn_of_a_run(offline_run: Path, tmp_path: Path) -> None:
    words = words_of(FIGURES.draw(FIGURES.FUNNEL, lambda: FIGURES.funnel(offline_run), tmp_path))
    assert "texts" in words
    assert "14" in words


def words_of(figure: Path) -> list[str]:
    return [str(part.text) for part in ElementTree.parse(figure).iter() if part.tag.endswith("}text")]  # noqa: S314 - ours


def places_of(figure: Path) -> list[float]:
    """Return the numbers of all paths of a figure."""
    drawn = " ".join(re.findall(r' d="([^"]*)"', figure.read_text(encoding="utf-8")))
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", drawn)]


def test_readme_is_short_and_its_links_hold() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {"docs/quickstart.md", "docs/data-team.md", "docs/annotator.md", "docs/trainer.md"} <= set(links)
