"""One reader, a browser, no network: the page of a run shows its figures, can be searched, and runs nobody's words."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from pipelines.journal import Journal
from reports.browsing import SAMPLE_BYTES, SAMPLES, browsed_samples
from reports.content import SAMPLE, Content, bounded, json_for_page, samples_of
from reports.removed import filters_of, pairs_of
from reports.report import write_report
from reports.summary import headline
from stillhouse.coverage import coverage
from stillhouse.progress import Unseen
from stillhouse.recipe import load_recipe
from stillhouse.reporting import CALLS, CAUSES, content_of, report_run
from stillhouse.schemas import ATTRIBUTES, TABLES, table_of
from stillhouse.stages import build_of
from stillhouse.store import RunFolder
from tests.audit_run import audited_run
from tests.conftest import DEMO_TEXTS, in_process, write_recipe
from tests.gated_run import PLANTED, PRIVATE, TEXTS, evaluation_set

HOSTILE = "</script><img src=x onerror=owned=1><script>owned=1</script>{{ 7*7 }} $\\frac{1}$ & 漢 \u202e \" ' "
REAL = [json.loads(line)["text"] for line in DEMO_TEXTS.read_text(encoding="utf-8").splitlines()[:20]]


@pytest.fixture(scope="module")
def report(offline_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished run."""
    return report_run(offline_run, to=tmp_path_factory.mktemp("report"))


def opened(page: Page, path: Path) -> Page:
    page.goto(path.as_uri())
    expect(page.locator("html")).to_have_attribute("data-ready", "yes")
    return page


def numbers(cells: Locator) -> list[str]:
    return [text.strip() for text in cells.all_text_contents()]


def test_the_page_tells_the_run(page: Page, report: Path, offline_run: Path) -> None:
    opened(page, report)
    run = RunFolder(offline_run)
    kept = run.read_table("decisions").filter("kept").height
    headline = dict(zip(numbers(page.locator("dt")), numbers(page.locator("dt + dd")), strict=True))
    assert headline["texts"] == "14"
    assert headline["answers"] == "24"
    assert headline["kept"] == str(kept)
    assert headline["audit"] == "not audited"
    assert page.locator("figure svg").count() == 6
    stages = numbers(page.locator("#teacher table:last-of-type th[scope=row]"))
    assert stages[-10:] == list(run.manifest()["stages"])
    assert page.locator(".caution", has_text="small offline one").count() == 1
    assert {link.get_attribute("href") for link in page.locator("nav a").all()} >= {"#summary", "#samples", "#gates"}
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href") or "").count() == 1


def test_pictures_are_files_too_and_the_same_every_time(report: Path, offline_run: Path, tmp_path: Path) -> None:
    names = {"funnel", "perspectives", "coverage", "difficulty", "perplexity", "ifd", "output_tokens"}
    files = {path.name: path.read_bytes() for path in (report.parent / "figures").iterdir()}
    assert set(files) == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for name, content in files.items():
        if name.endswith("svg"):
            assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file
        else:
            assert content.startswith(b"\x89PNG")
    again = report_run(offline_run, to=tmp_path / "again")
    assert again.read_bytes() == report.read_bytes()
    assert {path.name: path.read_bytes() for path in (again.parent / "figures").iterdir()} == files


def test_samples_are_searched_filtered_and_ordered(page: Page, report: Path, offline_run: Path) -> None:
    opened(page, report)
    samples = samples_of(content_of(RunFolder(offline_run)).tables)
    found, cards = page.locator("#samples-found"), page.locator("#samples-list .card")
    expect(found).to_have_text("1 to 12 of 24")
    page.locator("#samples-pager button").last.click()
    expect(found).to_have_text("13 to 24 of 24")
    page.select_option("#samples [name=fate]", "kept")
    kept = samples.filter(pl.col("fate") == "kept")
    expect(found).to_have_text(f"1 to {len(kept)} of {len(kept)}")
    page.select_option("#samples [name=order]", "-difficulty")
    difficulty = dict(kept.select("sample_id", "difficulty").iter_rows())
    shown = [difficulty[card.get_attribute("id")] for card in cards.all()]
    assert shown == sorted(difficulty.values(), reverse=True)
    page.select_option("#samples [name=fate]", "")
    expect(found).to_have_text("1 to 12 of 24")  # also those that have no difficulty
    one = samples.row(5, named=True)
    page.fill("#samples [name=words]", one["sample_id"].upper())
    expect(cards).to_have_count(1)
    expect(cards.locator("p").nth(1)).to_have_text(one["output"] or "")
    cards.locator("summary").click()
    lineage = dict(zip(numbers(cards.locator("dt")), numbers(cards.locator("dd")), strict=True))
    assert lineage["text"] == one["text_id"]
    assert lineage["teacher call"] == one["call_id"]
    assert lineage["decision"] == one["reason"]
    cards.get_by_role("button", name="Its instruction").click()
    expect(page.locator("#instructions-list .card")).to_have_count(1)
    page.locator("#instructions-list").get_by_text("Lineage").click()
    expect(page.locator("#instructions-list dd").first).to_have_text(one["instruction_id"])
    page.fill("#samples [name=words]", "no such words anywhere")
    expect(found).to_have_text("Nothing found")


def test_the_map_is_explored_by_mouse_and_by_keyboard(page: Page, report: Path, offline_run: Path) -> None:
    opened(page, report)
    table = RunFolder(offline_run).read_table("perspectives").with_row_index("place")
    rows = table.sort("mentions", descending=True).to_dicts()
    title = page.locator("#perspective h3")
    expect(title).to_have_text(rows[0]["head"])
    first = page.locator(f"#perspective-{rows[0]['place']}")
    assert first.get_attribute("aria-label") == f"{rows[0]['head']}, {rows[0]['mentions']} mentions"
    first.focus()
    page.keyboard.press("ArrowRight")
    expect(title).to_have_text(rows[1]["head"])
    members = numbers(page.locator("#perspective td:nth-child(1)"))
    assert members == [one["name"] for one in rows[1]["members"]][:25]
    page.keyboard.press("ArrowLeft")
    expect(title).to_have_text(rows[0]["head"])
    name = rows[1]["members"][0]["name"]
    page.fill("#attribute", name)
    page.locator("#attribute-list button").filter(has_text=name).first.click()
    expect(title).to_have_text(rows[1]["head"])
    page.mouse.move(0, 0)
    first.hover(force=True)
    expect(title).not_to_have_text("")


def test_the_matrix_counts_what_the_tables_have(page: Page, report: Path, offline_run: Path) -> None:
    opened(page, report)
    found = coverage({name: RunFolder(offline_run).read_table(name) for name in TABLES if name != "gates"})

    def check(cells: pl.DataFrame, step: str) -> None:
        table = page.locator("#matrix")
        types = numbers(table.locator("thead th"))[1:]
        for row in table.locator("tbody tr").all():
            head = row.locator("th").inner_text()
            for kind, cell in zip(types, numbers(row.locator("td")), strict=True):
                mine = cells.filter(pl.col("perspective") == head, pl.col("task_type") == kind)
                expected = f"{mine['paired'].sum()} → {mine[step].sum()}" if len(mine) else "–"
                assert cell == expected, (head, kind)

    check(found, "kept")
    domain = found.filter(pl.col("paired") > 0)["domain"][0]
    page.select_option("#domain", label=domain)
    check(found.filter(pl.col("domain") == domain), "kept")
    page.select_option("#step", "valid")
    check(found.filter(pl.col("domain") == domain), "valid")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_light_and_dark_follow_the_system_until_they_are_chosen(page: Page, report: Path, system: Any) -> None:
    page.emulate_media(color_scheme=system)
    opened(page, report)
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#figure-funnel text')).fill"
    before = page.evaluate(ground), page.evaluate(ink)
    page.get_by_role("button", name="Light or dark").click()
    after = page.evaluate(ground), page.evaluate(ink)
    grounds = {"light": "rgb(246, 245, 242)", "dark": "rgb(23, 22, 21)"}
    other = "dark" if system == "light" else "light"
    assert (before[0], after[0]) == (grounds[system], grounds[other])
    assert before[1] != after[1], "words in pictures follow"


def test_it_is_read_without_a_mouse_and_printed(page: Page, report: Path, tmp_path: Path) -> None:
    opened(page, report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
    assert {"SUMMARY", "attribute", "domain", "step", "words", "fate", "order"} <= reached
    assert any(name.startswith("perspective-") for name in reached)
    page.emulate_media(media="print")
    expect(page.locator("nav")).to_be_hidden()
    expect(page.locator("#samples .tools")).to_be_hidden()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_it_has_no_known_fault_of_accessibility(browser: Browser, report: Path, system: Any) -> None:
    # The checker is put into the page, which the page's own policy would forbid.
    page = browser.new_context(bypass_csp=True, color_scheme=system).new_page()
    opened(page, report)
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []


def test_money_is_told_in_each_currency(offline_run: Path) -> None:
    content = content_of(RunFolder(offline_run))
    stages = {name: dict(entry) for name, entry in content.manifest["stages"].items()}
    stages["attributes"] |= {"calls": 1_000, "prompt_tokens": 500, "output_tokens": 250, "cost": 1.5, "currency": "USD"}
    stages["instructions"] |= {"calls": 0, "prompt_tokens": 0, "output_tokens": 0, "cost": 0.5, "currency": "USD"}
    stages["responses"] |= {"calls": 0, "prompt_tokens": 0, "output_tokens": 0, "cost": 2.0, "currency": "EUR"}
    content = replace(content, manifest={**content.manifest, "stages": stages})
    calls = headline(content, samples_of(content.tables))[-1]
    assert calls == {"label": "teacher calls", "value": "1,000", "remark": "750 tokens, 2.00 USD, 2.00 EUR"}


def hostile_tables(folder: RunFolder) -> dict[str, pl.DataFrame]:
    """Return the tables of a run with hostile words in every column of words that is no key."""
    tables = {}
    keys = {"text_id", "sample_id", "instruction_id", "perspective_id", "call_id", "nearest_id", "status", "stage",
            "key", "outcome"}  # fmt: skip
    for name in ("texts", "attributes", "perspectives", "instructions", "responses", "scores", "decisions"):
        table = folder.read_table(name)
        words = [column for column, kind in table.schema.items() if kind == pl.String and column not in keys]
        tables[name] = table.with_columns(pl.lit(f"{HOSTILE}{name}.{word}").alias(word) for word in words)
    shot = [{"text": f"{HOSTILE}shot", "output": HOSTILE}]
    tables["instructions"] = tables["instructions"].with_columns(
        pl.lit(shot, TABLES["instructions"]["examples"]).alias("examples"),
        pl.lit([f"{HOSTILE}label"], pl.List(pl.String)).alias("labels"),
        kept=pl.int_range(pl.len()) > 0,
    )
    member = [{"name": f"{HOSTILE}member", "description": HOSTILE, "count": 3}]
    tables["perspectives"] = tables["perspectives"].with_columns(
        pl.lit(member, TABLES["perspectives"]["members"]).alias("members")
    )
    return tables


def test_words_of_others_are_shown_and_not_obeyed(page: Page, tmp_path: Path) -> None:
    folder = audited_run(tmp_path / "run", 60, REAL)
    tables = hostile_tables(folder)
    recipe = load_recipe(folder.recipe_path).model_dump(mode="json")
    recipe["teacher"]["model"] = f"{HOSTILE}teacher"
    interval = {"rate": 0.1, "low": 0.0, "high": 0.2, "rows": 3, "settled": 2, "wrong": 1}
    content = Content(
        name=f"{HOSTILE}name",
        tables=tables,
        manifest={"stages": {f"{HOSTILE}stage": {"seconds": 1.0, "counts": {f"{HOSTILE}counted": 1}}},
                  "versions": {f"{HOSTILE}package": HOSTILE}},
        recipe=recipe,
        funnel={"texts": 3, "kept": 2},
        calls=pl.DataFrame([(f"{HOSTILE}asked", 1, 0, 1, 1, 0.5, 0.5)], schema=CALLS, orient="row"),
        failures=pl.DataFrame([("s", f"{HOSTILE}cause", 1, 0)], schema=CAUSES, orient="row"),
        coverage=coverage(tables),
        unmet_quotas=({"kept": 0, "minimum": 1, "perspective": f"{HOSTILE}quota"},),
        findings={"decision": "undecided", "why": f"{HOSTILE}why", "records": 3, "answered": 3, "annotators": 1,
                  "found_wrong": 1, "unclear": 0, "conflict": 0, "waiting": 0, "confidence": 0.95, "bar": 0.05,
                  "error_rate": interval, "strata": [{"stratum": f"{HOSTILE}stratum", **interval}],
                  "dropped": [{"filter": f"{HOSTILE}filter", "correct": 1, **interval}],
                  "agreement": [{"question": f"{HOSTILE}question", "stratum": f"{HOSTILE}of", "records": 1,
                                 "percentage": 1.0, "alpha": None}]},
        gates={"leaks": {"checked": 3, "sets": [HOSTILE],
                         "found": [{"set": f"{HOSTILE}set", "how": HOSTILE, "texts": 1}]},
               "private": {"found": [{"kind": f"{HOSTILE}kind", "texts": 1, "action": f"{HOSTILE}action"}]}},
        comparison={"names": [f"{HOSTILE}before", f"{HOSTILE}after"],
                    "settings": [{"key": f"{HOSTILE}key", "before": HOSTILE, "after": [HOSTILE]}],
                    "funnel": [{"step": f"{HOSTILE}then", "before": 1, "after": 2}], "scores": [],
                    "task_types": [], "perspectives": [{"perspective": f"{HOSTILE}seen", "before": 1, "after": None}],
                    "kept": {"both": 1, "came_in": 1, "went_out": 0, "comparable": True},
                    "changed_answers": {"count": 0, "examples": []},
                    "cost": [{"stage": f"{HOSTILE}dear", "before": None,
                              "after": {"seconds": 1.0, "calls": 1, "prompt_tokens": 1, "output_tokens": 1}}],
                    "moved": [{"sample_id": "s1", "direction": "in", "prompt": f"{HOSTILE}moved", "output": HOSTILE,
                               "why": f"{HOSTILE}because"}]},
    )  # fmt: skip
    opened(page, write_report(content, tmp_path / "report"))
    assert page.evaluate("typeof owned") == "undefined"
    assert page.locator("img, iframe, object, main script").count() == 0
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    words = page.locator("body").inner_text()
    places = ("name", "teacher", "stage", "counted", "package", "asked", "cause", "quota", "why", "stratum", "filter",
              "question", "of", "set", "kind", "action", "before", "after", "key", "then", "seen", "moved", "because",
              "dear",
              "member", "shot", "label", "responses.prompt", "responses.output", "instructions.instruction",
              "instructions.name", "instructions.reason", "texts.domain", "decisions.reason",
              "perspectives.head")  # fmt: skip
    flat = " ".join(words.split())
    missing = [place for place in places if " ".join(f"{HOSTILE}{place}".split()) not in flat]
    assert missing == []
    page.fill("#samples [name=words]", "onerror=owned=1>")
    expect(page.locator("#samples-found")).to_have_text("1 to 12 of 60")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("typeof owned") == "undefined"


def test_what_the_gates_hold_back_is_not_in_the_page(tmp_path: Path) -> None:
    folder = audited_run(tmp_path / "run", 60, TEXTS, records=5)
    recipe = load_recipe(folder.recipe_path)
    leaks = recipe.publish.leaks.model_validate({**evaluation_set(tmp_path), "similarity": None})
    recipe = recipe.model_copy(update={"publish": recipe.publish.model_copy(update={"leaks": leaks})})
    folder.write_recipe(recipe)
    before = report_run(folder.path).read_text(encoding="utf-8")
    assert "do not pass this page on" in before
    assert all(word in before for word in PRIVATE)
    # A text of no sample: the gates do not look at it.
    unpaired = folder.read_table("texts").head(1).with_columns(text_id=pl.lit("t99"), text=pl.lit("Call 020 7946 0958"))
    unusable = table_of([{"text_id": "t99", "reason": "not JSON"}], ATTRIBUTES, "attributes")
    folder.write_table("attributes", unusable)
    folder.write_table("texts", pl.concat([folder.read_table("texts"), unpaired]))
    assert "020 7946" in report_run(folder.path).read_text(encoding="utf-8")
    scores = folder.read_table("scores").with_columns(difficulty=None, perplexity=None, ifd=None)
    folder.write_table("scores", scores)
    build_of(recipe, folder, Unseen()).run("gates", update=True)
    after = report_run(folder.path).read_text(encoding="utf-8")
    assert "do not pass this page on" not in after
    assert [word for word in (*PRIVATE, PLANTED["leak"], "020 7946") if word in after] == []
    assert "leaks from an evaluation set" in after
    assert "the gate keeps its words back" in after


@pytest.mark.parametrize("stage", ["texts", "responses"])
def test_an_unfinished_run_has_a_report_too(page: Page, answered_run: Path, tmp_path: Path, stage: str) -> None:
    run = RunFolder(answered_run)
    manifest = run.manifest()
    names = list(manifest["stages"])
    wanted = names[: names.index(stage) + 1]
    part = RunFolder(tmp_path / "part")
    part.path.mkdir()
    part.write_recipe(load_recipe(run.recipe_path))
    part.write_manifest({**manifest, "stages": {name: manifest["stages"][name] for name in wanted}})
    for name in wanted:
        part.write_table(name, run.read_table(name))
    opened(page, report_run(part.path))
    sections = [section.get_attribute("id") for section in page.locator("section").all()]
    more = ["perspectives", "coverage", "filters", "instructions", "samples"] if stage == "responses" else ["filters"]
    assert sections == ["summary", *more, "teacher", "recipe"]


def test_data_of_others_has_a_report_without_a_teacher(page: Page, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {number}.", "completion": str(number)} for number in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = {"texts": {"sources": [{"path": str(tmp_path / "pairs.jsonl")}]}, "imported": {}}
    recipe = load_recipe(write_recipe(tmp_path, **sources))
    folder = RunFolder(tmp_path / "run")
    build_of(recipe, folder, Unseen()).run("responses")
    opened(page, report_run(folder.path))
    expect(page.locator("#teacher")).to_contain_text("These answers came with the data")
    expect(page.locator("#samples-found")).to_have_text("1 to 12 of 20")


def test_numbers_that_are_none_break_nothing(page: Page, private_run: Path) -> None:
    run = RunFolder(private_run)
    hopeless = run.read_table("scores").with_columns(perplexity=pl.lit(float("inf")), ifd=pl.lit(float("nan")))
    run.write_table("scores", hopeless)
    opened(page, report_run(private_run))
    expect(page.locator("#samples-found")).to_have_text("1 to 12 of 24")
    page.select_option("#samples [name=order]", "-perplexity")
    expect(page.locator("#samples-found")).to_have_text("1 to 12 of 24")
    expect(page.locator("#samples-list .card")).to_have_count(12)


def test_what_was_removed_is_told_with_reasons_and_examples(tmp_path: Path) -> None:
    folder = audited_run(tmp_path / "run", 200, REAL)
    content = content_of(folder)
    samples = samples_of(content.tables)
    decisions = folder.read_table("decisions")
    steps = {step["name"]: step for step in filters_of(content, samples)}
    left = len(decisions)
    for stage, name in (
        ("validity", "invalid answer"),
        ("near_duplicate", "near-duplicate"),
        ("selection", "not selected"),
    ):
        gone = decisions.filter(~pl.col("kept"), pl.col("stage") == stage).height
        assert (steps[name]["gone"], steps[name]["of"]) == (gone, left)
        assert sum(reason["count"] for reason in steps[name]["reasons"]) == gone
        left -= gone
    (reason,) = steps["invalid answer"]["reasons"]
    answers = dict(folder.read_table("responses").select("sample_id", "output").iter_rows())
    assert len(reason["examples"]) == 3
    assert all(answers[example["id"]] == example["shown"] for example in reason["examples"])


def test_near_duplicates_stand_side_by_side_with_what_differs() -> None:
    common = {"status": "valid", "prompt": "p", "task": "mood", "task_type": "scoring"}
    kept = {"sample_id": "s1", "text": "A very good kettle.", "output": "5", "kept": True, "stage": "selection"}
    near = {"sample_id": "s2", "text": "A good kettle.", "output": "4", "kept": False, "stage": "near_duplicate",
            "nearest_id": "s1", "nearest_similarity": 0.93}  # fmt: skip
    held = {**near, "sample_id": "s3", "prompt": None}
    rows = [{**common, **row} for row in (kept, near, held)]
    samples = pl.DataFrame(rows, schema={**SAMPLE}).with_columns(
        fate=pl.when("kept").then(pl.lit("kept")).otherwise(pl.lit("near-duplicate"))
    )
    (pair,) = pairs_of(samples)
    assert pair["similarity"] == 0.93
    assert pair["dropped"]["text"] == [("A", False), (" good kettle.", False)]
    assert pair["nearest"]["text"] == [("A", False), (" very", True), (" good kettle.", False)]
    assert (pair["dropped"]["output"], pair["nearest"]["output"]) == ([("4", True)], [("5", True)])


def test_a_large_run_has_a_bounded_page() -> None:
    count = 20_000
    long = HOSTILE * 60  # six thousand characters, that take more as JSON
    samples = pl.DataFrame({"sample_id": [f"s{number}" for number in range(count)]}).with_columns(
        prompt=pl.lit(long), output=pl.lit("yes"),
        fate=pl.when(pl.int_range(pl.len()) < 100).then(pl.lit("near-duplicate"))
        .when(pl.int_range(pl.len()) < 3_000).then(pl.lit("kept")).otherwise(pl.lit("not selected")),
    )  # fmt: skip
    missing = [pl.lit(None, kind).alias(name) for name, kind in SAMPLE.items() if name not in samples.columns]
    samples = samples.with_columns(missing)
    rows = browsed_samples(samples)
    size = len(json_for_page(rows).encode())
    assert 0.9 * SAMPLE_BYTES < size < 1.1 * SAMPLE_BYTES
    assert all(len(row["prompt"]) < 4_010 for row in rows)
    short = browsed_samples(samples.with_columns(prompt=pl.lit("short")))
    fates = pl.Series([row["fate"] for row in short]).value_counts().rows()
    assert dict(fates) == {"kept": SAMPLES // 2, "near-duplicate": 100, "not selected": SAMPLES // 4}
    assert bounded(["a" * 40, "b" * 40, "c"], 86) == ["a" * 40, "b" * 40]


def test_calls_are_told_by_stage(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        answers = [
            ("INSERT INTO answers VALUES (?,?,?,?,?,?,?,?,?)",
             (f"{stage}{number:04}", stage, "{}", "", "length" if number < 3 else "stop", 10, 2, float(number),
              number if stage == "b" else 1_000))
            for stage, count in (("b", 100), ("a", 1)) for number in range(1, count + 1)
        ]  # fmt: skip
        journal.write(answers)
        assert journal.stages() == [("b", 100, 2, 1_000, 200, 50.0, 95.0), ("a", 1, 1, 10, 2, 1.0, 1.0)]


def test_the_command_writes_beside_the_run_and_spares_other_folders(private_run: Path, tmp_path: Path) -> None:
    first = in_process("report", private_run)
    assert first.returncode == 0, first.stderr
    page = private_run / "report" / "report.html"
    assert str(page) in first.stdout
    page.write_text("old", encoding="utf-8")
    assert in_process("report", private_run).returncode == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    refused = in_process("report", private_run, "--to", tmp_path / "mine")
    assert refused.returncode == 2
    assert "exists already and is no report" in " ".join(refused.stderr.split())
    nowhere = in_process("report", tmp_path / "nowhere")
    assert nowhere.returncode == 2
    assert "is not a run folder" in " ".join(nowhere.stderr.split())


def test_a_cut_is_compared_with_the_run(page: Page, private_run: Path) -> None:
    assert in_process("select", private_run, "--strategy", "hard", "--rate", "0.2", "--name", "few").returncode == 0
    done = in_process("report", private_run, "--against", private_run / "cuts" / "few")
    assert done.returncode == 0, done.stderr
    opened(page, private_run / "report" / "report.html")
    run = set(RunFolder(private_run).read_table("decisions").filter("kept")["sample_id"])
    cut = set(pl.read_parquet(private_run / "cuts" / "few" / "decisions.parquet").filter("kept")["sample_id"])
    told = page.locator("#comparison p").first
    expect(told).to_contain_text(
        f"{len(run & cut)} samples are kept in both, {len(run - cut)} came in, {len(cut - run)}"
    )
    expect(page.locator("#comparison")).to_contain_text("curation.rate")
