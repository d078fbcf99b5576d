"""The audit of a run from its sample to the published dataset: a real server, four annotators, one in a browser."""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml
from scipy.stats import beta

from curation.audit.local_server import Account, LocalServer, add_annotator
from stillhouse.draws import uniform
from stillhouse.store import RunFolder
from tests.annotating import Given, dataset_id, give, records_at, request, sample_of
from tests.audit_run import LABELS, audited_run, copied
from tests.conftest import DEMO_TEXTS, chromium, in_process

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("argilla")

ROUND = "audited-round-1"
FAILING = "i-plot-scoring"
ARBITER = "dora"
NAMES = ("ann", "ben", "cleo", "dora")
HOSTILE = [
    "<script>alert('script')</script> and a kettle that leaks, quite a lot of it, on the second day.",
    "<img src=x onerror=alert('image')> said the label, and the <b>soup</b> was cold & <i>late</i>.",
    "{{constructor.constructor('alert(1)')()}} came with the {{parcel}}, and nobody knows why.",
    "# Not a heading\n\n* not a list\n* `not code` **not bold** _not slanted_\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "[a link](javascript:alert('link')) ![a picture](http://127.0.0.1:9/p.png) <https://example.org> ~~gone~~",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe><a href='javascript:alert(2)'>here</a> 5 stars",
    "</div></template><style>body{display:none}</style> &lt;b&gt; &amp; \"quoted\" 'text' \\n \\u003c",
    "    four blanks in front, <svg onload=alert('svg')>, and a rule:\n\n---\n\nafter it; $x^2$ and a \\ at the end",
    "<details open ontoggle=alert('open')><summary>x</summary></details> fine phone, bad screen. 😀 ünï ﷽",
]
WORDS = "<script>alert(1)</script> a deadline; [see](http://example.org) **us**"
IN_PAGE = 8  # records that are answered in the browser
MARKUP = (
    "script",
    "img",
    "a",
    "b b",
    "i",
    "em",
    "strong",
    "svg",
    "iframe",
    "style",
    "details",
    "code",
    "h1",
    "hr",
    "del",
)


def texts() -> list[str]:
    with DEMO_TEXTS.open(encoding="utf-8") as lines:
        hostile = [f"{text} {number}" for number in range(10) for text in HOSTILE]
        return [*hostile, *(json.loads(line)["text"] for line in lines)]


def done(*arguments: object) -> str:
    """Run a command that has to end well; return what it printed."""
    result = in_process(*arguments)
    assert result.returncode == 0, result.stderr
    return " ".join(result.stdout.split())


def lot(sample_id: str, what: str) -> float:
    return uniform(f"{sample_id} {what}")


def correction_for(record: dict[str, Any]) -> str | None:
    """Return another valid answer, one that is not valid, or none, by the sample."""
    share = lot(record["sample_id"], "correction")
    if share < 0.2:
        return None
    if share < 0.4 and record["task_type"] != "analysis":
        return "ecstatic {" if record["task_type"] != "extraction" else json.dumps(["words that stand nowhere"])
    old = record["answer"]
    quoted = json.dumps([max("".join(part["text"] for part in record["parts"]).split(), key=len)])
    other = LABELS[(LABELS.index(old) + 1) % 3] if old in LABELS else ""
    return {
        "classification": other,
        "scoring": str(int(old) % 5 + 1) if old.isdigit() else "",
        "extraction": quoted,
        "structured": json.dumps({**json.loads(old), "tone": "neutral", "evidence": json.loads(quoted)[0]})
        if old.startswith("{")
        else "",
        "analysis": "The text is calm, and no more than that.",
    }[str(record["task_type"])]


def answer_of(name: str, record: dict[str, Any]) -> Given:
    """Return what an annotator says: nearly always the truth; some drafts, discards, slips and doubts."""
    key = record["sample_id"]
    share = lot(key, f"{name} status")
    if share < 0.04:
        return Given("draft", **({"rating": 3, "comment": "later"} if share < 0.02 else {}))
    if share < 0.06:
        return Given("discarded")
    shared = record["answers"] > 1
    wrong = (lot(key, "truth") < 0.025) != (shared and lot(key, f"{name} slip") < 0.1)
    if lot(key, f"{name} doubt") < 0.02:
        return Given("submitted", "unclear", comment='"who" knows?, \n<b>not me</b>')
    if not wrong:
        return Given("submitted", "correct", rating=4 + (lot(key, name) < 0.5), correction=record["answer"])
    faults = ("wrong answer",) if lot(key, name) < 0.7 else ("invented", "incomplete")
    return Given("submitted", "wrong", faults, 2, correction_for(record))


@dataclass
class Audited:
    """A run in an audit, with what was shown and what was answered: by sample and annotator, the latest first."""

    folder: RunFolder
    given: dict[tuple[str, str], list[Given]]
    findings: dict[str, Any]

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """The records of the first round by sample id."""
        return {
            entry["sample_id"]: entry for entry in json.loads((self.folder.review_path / "round-1.json").read_text())
        }

    @property
    def reviews(self) -> pl.DataFrame:
        """What was pulled."""
        return pl.read_parquet(self.folder.review_path / "reviews.parquet")

    def standing(self) -> dict[str, dict[str, Given]]:
        """Return what was submitted, of each sample by annotator."""
        found: dict[str, dict[str, Given]] = defaultdict(dict)
        for (sample, name), given in self.given.items():
            if given[-1].status == "submitted":
                found[sample][name] = given[-1]
        return dict(found)

    def verdicts(self) -> dict[str, str]:
        """Return the arbiter's verdict on each sample, else the majority where there is one."""
        deciding = {sample: {ARBITER: by[ARBITER]} if ARBITER in by else by for sample, by in self.standing().items()}
        counts = {sample: Counter(one.verdict for one in by.values()) for sample, by in deciding.items()}
        most = {sample: [v for v, n in count.items() if n == max(count.values())] for sample, count in counts.items()}
        return {sample: str(found[0]) for sample, found in most.items() if len(found) == 1}


@pytest.fixture(scope="module")
def people(argilla_server: LocalServer) -> Iterator[dict[str, Account]]:
    """The annotators; commands know the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGILLA_API_URL", argilla_server.account.url)
        patch.setenv("ARGILLA_API_KEY", argilla_server.account.api_key)
        yield {name: add_annotator(argilla_server, "stillhouse", name) for name in NAMES}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Account]) -> RunFolder:
    """A run whose first round is in Argilla."""
    folder = audited_run(tmp_path_factory.mktemp("audit") / "run", 2000, texts(), overlap=0.12, arbiter=ARBITER)
    out = done("review", "push", folder.path, "--records", 560, "--annotators", 4)
    assert "600 records" in out
    assert "600 sent" in out
    return folder


def at_server(account: Account, workspace: str = "stillhouse") -> list[dict[str, Any]]:
    return [*records_at(account, ROUND, workspace), *records_at(account, f"{ROUND}-overlap", workspace)]


def answered_by(audited: Audited, owner: Account, people: dict[str, Account], names: Sequence[str]) -> None:
    """Let annotators answer: all of them the overlap, and each a part of the rest."""
    for name in names:
        answers = []
        for item in at_server(owner):
            record = audited.records[sample_of(item)]
            mine = record["answers"] > 1 or int(lot(record["sample_id"], "whose") * 3) == NAMES.index(name)
            if mine:
                audited.given[record["sample_id"], name] = [answer_of(name, record)]
                answers.append((item["id"], audited.given[record["sample_id"], name][0]))
        give(people[name], answers)


def pulled(folder: RunFolder) -> dict[str, Any]:
    result = in_process("review", "pull", folder.path, "--json")
    assert result.returncode == 0, result.stderr
    findings: dict[str, Any] = json.loads(result.stdout)
    return findings


@pytest.fixture(scope="module")
def half(pushed: RunFolder, argilla: Account, people: dict[str, Account]) -> Audited:
    """A copy of the run after one annotator has answered, pulled."""
    audited = Audited(pushed, {}, {})
    answered_by(audited, argilla, people, ["ann"])
    findings = pulled(pushed)
    copy = copied(pushed, pushed.path.with_name("half"))
    shutil.copy(copy.review_path / "reviews.parquet", pushed.path.with_name("half-reviews.parquet"))
    return Audited(copy, dict(audited.given), findings)


@dataclass
class InPage:
    """What was seen and done in the browser."""

    answered: list[tuple[tuple[str, ...], Given]]  # what was shown, what was answered
    pending: tuple[int, int]  # records that are pending before and after
    others: list[tuple[str, ...]]  # what the records that were not answered show
    markup: int  # elements that no record should have
    dialogs: list[str]
    pictures: list[Path]


def shown(page: "Page") -> tuple[str, ...]:
    """Return instruction, text, answer and what the box for a correction holds, with single blanks."""
    box = page.get_by_label("Question: correction").locator("[contenteditable]")
    return tuple(
        " ".join(part.split()) for part in (*page.locator(".markdown-render").all_inner_texts(), box.inner_text())
    )


def expected_to_show(record: dict[str, Any]) -> tuple[str, ...]:
    answer = [part for field in record["fields"] for part in field] or record["items"] or [record["answer"]]
    parts = (
        f"{record['instruction']} {record['form']}",
        "".join(part["text"] for part in record["parts"]),
        " ".join(answer),
        record["answer"],
    )
    return tuple(" ".join(part.split()) for part in parts)


def log_in(page: "Page", account: Account) -> None:
    page.goto(account.url)
    page.locator("input[name=Username]").fill(account.username)
    page.locator("input[name=Password]").fill(account.password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Your datasets").wait_for()


def open_dataset(page: "Page", account: Account, name: str) -> int:
    """Open a dataset; return how many records wait for this annotator."""
    page.goto(f"{account.url}/dataset/{dataset_id(account, name)}/annotation-mode")
    page.get_by_role("form", name="Annotation Questions").wait_for()
    return int(page.get_by_label("Total Records").inner_text().removeprefix("of "))


def await_next(page: "Page", place: str) -> None:
    following = page.get_by_label("Current Record").get_by_text(str(int(place) + 1), exact=True)
    following.wait_for(timeout=10_000)


def answer_in_page(page: "Page", number: int, correct_it: bool) -> tuple[tuple[str, ...], Given]:
    """Answer the record on the page by keyboard; then the next one has to appear."""
    before, place = shown(page), page.get_by_label("Current Record").inner_text()
    if correct_it:
        page.keyboard.press("2")
        page.keyboard.press("1")
        page.get_by_label("Question: correction").locator("[contenteditable]").click()
        page.keyboard.press("Control+a")
        correction = LABELS[(LABELS.index(before[2]) + 1) % 3]
        page.keyboard.type(correction)
        page.keyboard.press("Escape")
        given = Given("submitted", "wrong", ("wrong answer",), correction=correction)
    else:
        given = Given("discarded") if number == 1 else Given("submitted", "unclear" if number == 2 else "correct")
        page.keyboard.press({"correct": "1", "unclear": "3"}.get(str(given.verdict), "Backspace"))
    if given.status == "submitted":
        page.keyboard.press("Enter")
    await_next(page, place)
    return before, given


@pytest.fixture(scope="module")
def in_page(pushed: RunFolder, people: dict[str, Account], tmp_path_factory: pytest.TempPathFactory) -> InPage:
    """What a fourth annotator does in a browser: eight records or more, one of them corrected, then a look at all."""
    folder, dialogs = tmp_path_factory.mktemp("page"), []
    pictures = [folder / f"{name}.png" for name in ("first", "answered", "hostile")]
    answered: list[tuple[tuple[str, ...], Given]] = []
    others, markup = [], 0
    kept = [
        entry
        for entry in json.loads((pushed.review_path / "round-1.json").read_text())
        if entry["population"] == "kept" and entry["answer"] in LABELS
    ]
    correctable = set(map(expected_to_show, kept))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        log_in(page, people["dora"])
        before = open_dataset(page, people["dora"], f"{ROUND}-overlap")
        page.screenshot(path=pictures[0])
        to_correct = True
        while len(answered) < IN_PAGE or to_correct:
            correct_it = to_correct and len(answered) > 2 and shown(page) in correctable
            answered.append(answer_in_page(page, len(answered), correct_it))
            to_correct = to_correct and not correct_it
        page.screenshot(path=pictures[1])
        after = open_dataset(page, people["dora"], f"{ROUND}-overlap")
        for number in range(1, after + 1):
            others.append(shown(page))
            markup += page.locator(", ".join(f".markdown-render {name}" for name in MARKUP)).count()
            if "<" in others[-1][1]:
                page.screenshot(path=pictures[2])
            if number < after:
                page.keyboard.press("ArrowRight")
                await_next(page, str(number))
    return InPage(answered, (before, after), others, markup, dialogs, pictures)


@pytest.fixture(scope="module")
def whole(pushed: RunFolder, half: Audited, in_page: InPage, argilla: Account, people: dict[str, Account]) -> Audited:
    """The run after all four have answered and the first one has changed an answer, pulled."""
    audited = Audited(pushed, dict(half.given), {})
    answered_by(audited, argilla, people, ["ben", "cleo"])
    dora = request(people["dora"], "GET", "/api/v1/me")["id"]
    times = {
        response["inserted_at"]: sample_of(item)
        for item in records_at(argilla, f"{ROUND}-overlap")
        for response in item["responses"]
        if response["user_id"] == dora
    }
    for moment, (_, given) in zip(sorted(times), in_page.answered, strict=True):
        audited.given[times[moment], "dora"] = [given]
    change_an_answer(audited, argilla, people["ann"])
    audited.findings = pulled(pushed)
    return audited


def change_an_answer(audited: Audited, owner: Account, ann: Account) -> None:
    """Let an annotator find wrong what she found correct."""
    key = sample, _ = min(
        who
        for who, given in audited.given.items()
        if who[1] == "ann" and given[0].verdict == "correct" and audited.records[who[0]]["answers"] == 1
    )
    record = next(item["id"] for item in at_server(owner) if sample_of(item) == sample)
    given = Given("submitted", "wrong", ("bad text",), 1)
    give(ann, [(record, given)])
    audited.given[key] = [*audited.given[key], given]


@dataclass
class Published:
    """What happened on the way to a published dataset: with half of the verdicts, then with all."""

    folder: RunFolder
    refused: "CompletedProcess[str]"
    waived: Path
    published: Path
    scores: pl.DataFrame  # as they were before anything was corrected

    def rows(self, config: str) -> pl.DataFrame:
        """Return the rows of all splits."""
        return rows_of(self.published, config)


def rows_of(dataset: Path, config: str) -> pl.DataFrame:
    return pl.read_parquet(sorted((dataset / config).glob("*.parquet")))


@pytest.fixture(scope="module")
def published(half: Audited, request: pytest.FixtureRequest) -> Published:
    """The copy with half of the verdicts, applied and published with a waiver; then pulled, applied, published."""
    folder, to = half.folder, half.folder.path.with_name("published")
    scores = folder.read_table("scores")
    done("review", "apply", folder.path)
    refused = in_process("publish", folder.path, "--to", to)
    assert not to.exists()
    waived = to.with_name("waived")
    done("publish", folder.path, "--to", waived, "--without-audit", WORDS)
    request.getfixturevalue("whole")
    done("review", "pull", folder.path)
    unapplied = in_process("publish", folder.path, "--to", to)
    assert unapplied.returncode == 2
    assert "`stillhouse review apply" in unapplied.stderr
    done("review", "apply", folder.path)
    waiting = in_process("publish", folder.path, "--to", to)
    assert "records still wait for an answer" in " ".join(waiting.stderr.split())
    answer_the_rest(folder, to.with_name("rest.csv"))
    done("review", "apply", folder.path)
    done("publish", folder.path, "--to", to)
    return Published(folder, refused, waived, to, scores)


def answer_the_rest(folder: RunFolder, file: Path) -> None:
    """Let a fifth annotator answer, in a file, what the others left as drafts."""
    done("review", "push", folder.path, "--to", file)
    reviews = pl.read_parquet(folder.review_path / "reviews.parquet").filter(pl.col("status") != "draft")
    rows = pl.read_csv(file, infer_schema_length=0)
    rest = ~pl.col("sample_id").is_in(reviews["sample_id"].to_list())
    rows.with_columns(
        verdict=pl.when(rest).then(pl.lit("correct")), annotator=pl.when(rest).then(pl.lit("eve"))
    ).write_csv(file)
    assert done("review", "pull", folder.path, "--from", file)


def test_a_second_push_changes_nothing(pushed: RunFolder, argilla: Account) -> None:
    before = at_server(argilla)
    records = {entry["sample_id"]: entry for entry in json.loads((pushed.review_path / "round-1.json").read_text())}
    assert "nothing new to send" in done("review", "push", pushed.path)
    assert at_server(argilla) == before
    assert len(before) == len(records) == 600
    shared = [sample_of(item) for item in records_at(argilla, f"{ROUND}-overlap")]
    assert sorted(shared) == sorted(key for key, entry in records.items() if entry["answers"] == 4)
    assert 0.08 < len(shared) / 600 < 0.16
    for item in before:
        (suggestion,) = item["suggestions"]
        assert suggestion["value"] == records[sample_of(item)]["answer"]


def test_half_of_the_verdicts_decide_nothing(half: Audited) -> None:
    assert half.findings["decision"] == "undecided"
    assert half.findings["annotators"] == 1
    assert half.findings["answered"] == len(half.standing())
    check_rate(half)
    assert half.findings["agreement"] == []


def test_a_later_pull_adds_only_what_is_new(half: Audited, whole: Audited) -> None:
    first = pl.read_parquet(half.folder.path.parent / "half-reviews.parquet")
    later = whole.reviews
    assert len(first) == len(half.given)
    assert later.head(len(first)).equals(first)
    assert len(later) == sum(map(len, whole.given.values()))
    file = whole.folder.review_path / "reviews.parquet"
    before = file.read_bytes()
    assert "0 new or changed answers" in done("review", "pull", whole.folder.path)
    assert file.read_bytes() == before


def test_every_answer_is_pulled_as_it_was_given(whole: Audited) -> None:
    pulled_ones: dict[tuple[str, str], list[Given]] = defaultdict(list)
    for row in whole.reviews.iter_rows(named=True):
        answer = Given(
            *(row[name] for name in ("status", "verdict")),
            tuple(row["faults"]),
            *(row[name] for name in ("rating", "correction", "comment")),
        )
        pulled_ones[row["sample_id"], row["annotator"]].append(answer)
    assert dict(pulled_ones) == {
        key: [as_kept(one, whole.records[key[0]]["answer"]) for one in given] for key, given in whole.given.items()
    }
    statuses = Counter(given[-1].status for given in whole.given.values())
    assert min(statuses[name] for name in ("draft", "discarded", "submitted")) > 5
    times, now = whole.reviews["given_at"], datetime.now(UTC)
    assert now - timedelta(minutes=20) < times.min() < times.max() < now
    assert whole.reviews["source"].unique().to_list() == ["argilla"]
    assert whole.findings["not_counted"] == 0


def as_kept(given: Given, answer: str) -> Given:
    """An answer that stands in the box for corrections as the teacher gave it is no correction."""
    return replace(given, correction=None if given.correction == answer else given.correction)


def test_the_page_takes_the_keyboard_and_shows_text_as_text(in_page: InPage, whole: Audited) -> None:
    assert in_page.dialogs == []
    assert in_page.markup == 0
    before, after = in_page.pending
    assert before - after == len(in_page.answered)
    overlap = [record for record in whole.records.values() if record["answers"] == 4]
    wanted = Counter(map(expected_to_show, overlap))
    assert Counter([*in_page.others, *(seen for seen, _ in in_page.answered)]) == wanted
    kinds = {text for text in HOSTILE for seen in wanted if " ".join(text.split()) in seen[1]}
    assert len(kinds) > 5
    mine = whole.reviews.filter(pl.col("annotator") == "dora").sort("given_at")
    for row, (seen, given) in zip(mine.iter_rows(named=True), in_page.answered, strict=True):
        assert expected_to_show(whole.records[row["sample_id"]]) == seen
        assert (row["status"], row["verdict"], row["correction"]) == (given.status, given.verdict, given.correction)
    assert Counter(given.verdict for _, given in in_page.answered) >= Counter(["wrong", "unclear", None, "correct"])
    assert all(picture.stat().st_size > 10_000 for picture in in_page.pictures)


def test_error_rate_and_interval_are_what_the_verdicts_say(whole: Audited) -> None:
    check_rate(whole)
    verdicts = whole.verdicts()
    assert whole.findings["answered"] == len(whole.standing())
    assert whole.findings["unclear"] == sum(verdict == "unclear" for verdict in verdicts.values()) > 0
    assert whole.findings["conflict"] == len(whole.standing()) - len(verdicts)
    assert (whole.findings["decision"], whole.findings["waiting"] > 0) == ("undecided", True)  # some left drafts
    assert whole.findings["published"]["high"] < 0.05


def check_rate(audited: Audited) -> None:
    """Compare rates and intervals, of strata and of all, with a calculation of our own."""
    verdicts, found = audited.verdicts(), audited.findings
    frame = pl.read_parquet(audited.folder.review_path / "round-1.parquet")
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for sample, population, stratum in frame.select("sample_id", "population", "stratum").iter_rows():
        verdict = verdicts.get(sample)
        told = (1, verdict in ("correct", "wrong"), verdict == "wrong", verdict == "correct")
        counts[population, stratum] = [old + new for old, new in zip(counts[population, stratum], told, strict=True)]
    kept = {stratum: count[:3] for (population, stratum), count in counts.items() if population == "kept"}
    strata = {row["stratum"]: row for row in found["strata"]}
    assert {name: [row["rows"], row["settled"], row["wrong"]] for name, row in strata.items()} == kept
    for name, (rows, settled, wrong) in kept.items():
        bounds = clopper_pearson(wrong / settled, settled) if settled else (0.0, 1.0)
        assert (strata[name]["low"], strata[name]["high"]) == pytest.approx(
            bounds if settled < rows else (wrong / rows, wrong / rows)
        )
    dropped = {stratum: count for (population, stratum), count in counts.items() if population == "dropped"}
    for row in found["dropped"]:
        rows, settled, _, correct = dropped[row["filter"]]
        assert (row["rows"], row["settled"], row["correct"]) == (rows, settled, correct)
        assert (row["low"], row["high"]) == pytest.approx(clopper_pearson(correct / settled, settled))
    assert {row["filter"] for row in found["dropped"]} == {name for name, count in dropped.items() if count[1]}
    rate, low, high = korn_and_graubard(list(kept.values()))
    assert (found["error_rate"]["rate"], found["error_rate"]["low"], found["error_rate"]["high"]) == pytest.approx(
        (rate, low, high)
    )


def clopper_pearson(rate: float, size: float, alpha: float = 0.05) -> tuple[float, float]:
    wrong = rate * size
    low = float(beta.ppf(alpha / 2, wrong, size - wrong + 1)) if wrong > 0 else 0.0
    high = float(beta.ppf(1 - alpha / 2, wrong + 1, size - wrong)) if wrong < size else 1.0
    return low, high


def korn_and_graubard(strata: list[list[int]]) -> tuple[float, float, float]:
    """Return rate and bounds: Clopper-Pearson at the effective size, over rows (N), settled (n) and wrong (x)."""
    total = sum(rows for rows, _, _ in strata)
    known = [(rows, n, x / n) for rows, n, x in strata if n]
    part = [(rows, n, p) for rows, n, p in known if n < rows]
    exact = sum(rows * p for rows, n, p in known if n == rows) / total
    unknown = sum(rows for rows, n, _ in strata if not n) / total
    size = sum(rows for rows, _, _ in part)
    mean = sum(rows / size * p for rows, _, p in part)
    variance = sum((rows / size) ** 2 * p * (1 - p) / max(n - 1, 1) for rows, n, p in part)
    kish = 1 / sum((rows / size) ** 2 / n for rows, n, _ in part)
    least = min(n / (rows / size) for rows, n, _ in part)  # holds whatever the spread within strata is
    by_spread = mean * (1 - mean) / variance + 1 if variance else kish
    low, high = clopper_pearson(mean, min(max(by_spread, least), kish))
    rate = sum(rows * p for rows, _, p in known) / sum(rows for rows, _, _ in known)
    return rate, exact + size / total * low, exact + size / total * high + unknown


def test_agreement_is_what_the_answers_say(whole: Audited) -> None:
    found = {row["question"]: row for row in whole.findings["agreement"] if row["stratum"] is None}
    standing = [list(by.values()) for by in whole.standing().values()]
    for question, value, distance in (
        ("verdict", lambda given: given.verdict, differs),
        ("what is wrong", lambda given: tuple(sorted(given.faults)) if given.verdict == "wrong" else None, differs),
        ("quality", lambda given: given.rating, apart_in_rank),
    ):
        units = [[value(one) for one in given if value(one) is not None] for given in standing]
        units = [values for values in units if len(values) > 1]
        pairs = [a == b for values in units for a, b in combinations(values, 2)]
        assert found[question]["records"] == len(units) > (1 if question == "what is wrong" else 50)
        assert found[question]["percentage"] == pytest.approx(sum(pairs) / len(pairs))
        assert sum(pairs) / len(pairs) < 1
        assert found[question]["alpha"] == pytest.approx(krippendorff_alpha(units, distance))


Distance = Callable[[Any, Any, Counter[Any]], float]


def differs(one: Any, other: Any, counts: Counter[Any]) -> float:
    return float(one != other)


def apart_in_rank(one: int, other: int, counts: Counter[Any]) -> float:
    first, last = sorted((one, other))
    between = sum(count for value, count in counts.items() if first <= value <= last)
    return float((between - (counts[first] + counts[last]) / 2) ** 2)


def krippendorff_alpha(units: list[list[Any]], distance: Distance) -> float:
    """Return alpha by the matrix of coincidences (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011)."""
    coincidences: Counter[Any] = Counter()
    for values in units:
        for pair in permutations(values, 2):
            coincidences[pair] += 1 / (len(values) - 1)
    counts: Counter[Any] = Counter()
    for (one, _), weight in coincidences.items():
        counts[one] += weight
    observed = sum(weight * distance(*pair, counts) for pair, weight in coincidences.items())
    expected = sum(counts[one] * counts[other] * distance(one, other, counts) for one in counts for other in counts)
    return 1 - observed * (sum(counts.values()) - 1) / expected


def test_publishing_waits_for_the_verdicts(published: Published) -> None:
    assert published.refused.returncode == 1
    assert "undecided" in published.refused.stderr
    assert "bar of 5.0%" in " ".join(published.refused.stderr.split())
    card = (published.waived / "README.md").read_text()
    assert "Published although no audit accepts it" in card
    assert "<script>" not in card
    assert "&#60;script&#62;alert&#40;1&#41;&#60;/script&#62; a deadline; &#91;see&#93;" in card
    assert "&#42;&#42;us&#42;&#42;" in card
    card = (published.published / "README.md").read_text()
    assert "**Accepted**" in card
    assert "Published although" not in card


def test_corrections_are_in_the_dataset(published: Published, whole: Audited) -> None:
    rows, changes = published.rows("default"), published.rows("corrections")
    wrong = [key for key, verdict in whole.verdicts().items() if verdict == "wrong"]
    kept = [key for key in wrong if whole.records[key]["population"] == "kept"]
    corrected = rows.filter(pl.col("audit") == "corrected")
    assert set(corrected["id"]) == set(changes["id"]) <= set(kept)
    assert len(corrected) > 3
    by_people = {
        key: [one.correction for one in by.values() if one.verdict == "wrong" and one.correction]
        for key, by in whole.standing().items()
    }
    scores = dict(published.scores.select("sample_id", "difficulty").iter_rows())
    for row in corrected.iter_rows(named=True):
        old = whole.records[row["id"]]["answer"]
        assert row["completion"] in by_people[row["id"]]
        assert row["completion"] != old
        assert row["messages"][1]["content"] == row["completion"]
        assert row["difficulty"] is not None
        assert row["difficulty"] != scores[row["id"]]
        (change,) = changes.filter(pl.col("id") == row["id"]).iter_rows(named=True)
        assert (change["teacher_completion"], change["completion"]) == (old, row["completion"])
        assert change["annotators"] == len(whole.standing()[row["id"]])
    (typed,) = [key for (key, name), given in whole.given.items() if name == "dora" and given[-1].verdict == "wrong"]
    (row,) = corrected.filter(pl.col("id") == typed).iter_rows(named=True)
    assert row["completion"] == whole.given[typed, "dora"][-1].correction
    accepted = {key for key, verdict in whole.verdicts().items() if verdict == "correct"}
    reviews = pl.read_parquet(published.folder.review_path / "reviews.parquet")
    accepted |= set(reviews.filter(pl.col("annotator") == "eve")["sample_id"])
    assert set(rows.filter(pl.col("audit") == "accepted")["id"]) == {
        key for key in accepted if whole.records[key]["population"] == "kept"
    }


def test_wrong_answers_without_a_valid_correction_are_out(published: Published, whole: Audited) -> None:
    out = published.rows("rejected").filter(pl.col("rejected_by") == "audit")
    wrong = {key for key, verdict in whole.verdicts().items() if verdict == "wrong"}
    kept = {key for key in wrong if whole.records[key]["population"] == "kept"}
    corrected = set(published.rows("corrections")["id"])
    assert set(out["id"]) == kept - corrected
    assert not set(out["id"]) & set(published.rows("default")["id"])
    for key, reason in out.select("id", "reason").iter_rows():
        typed = [one.correction for one in whole.standing()[key].values() if one.verdict == "wrong" and one.correction]
        assert ("their correction is not valid" if typed else "gave no correction") in reason
    reasons = " ".join(out["reason"])
    assert "gave no correction" in reasons
    assert "their correction is not valid" in reasons


def test_another_round_does_not_ask_again(whole: Audited, tmp_path: Path) -> None:
    folder = copied(whole.folder, tmp_path / "run")
    done("review", "push", folder.path, "--next", "--records", 100, "--to", tmp_path / "more.html")
    asked = {entry["sample_id"] for entry in json.loads((folder.review_path / "round-2.json").read_text())}
    assert len(asked) == 100
    assert asked & {*whole.records} <= {*whole.standing()} - {*whole.verdicts()}, "only what is tied"
    before = (folder.review_path / "round-2.json").read_bytes()
    out = done("review", "push", folder.path, "--to", tmp_path / "again.html")
    assert "Round 2: 100 records" in out
    assert (folder.review_path / "round-2.json").read_bytes() == before
    result = in_process("review", "pull", folder.path)
    assert result.returncode == 2
    assert "audited-round-2: not at" in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def failed(
    tmp_path_factory: pytest.TempPathFactory, argilla_server: LocalServer, people: dict[str, Account]
) -> RunFolder:
    """A run of which people find all answers to one instruction wrong, pulled."""
    path = tmp_path_factory.mktemp("failing") / "run"
    folder = audited_run(path, 600, texts(), workspace="failing", records=110, rejected=0)
    done("review", "push", path)
    answer_round(folder, argilla_server, 1)
    findings = pulled(folder)
    assert [entry["instruction_id"] for entry in findings["failing"]] == [FAILING]
    assert findings["decision"] == "undecided"
    return folder


def answer_round(folder: RunFolder, server: LocalServer, number: int) -> None:
    """Let one annotator answer a round: right, but for the failing instruction."""
    ann = add_annotator(server, "failing", "ann")
    records = {one["sample_id"]: one for one in json.loads((folder.review_path / f"round-{number}.json").read_text())}
    answers = []
    for item in records_at(server.account, f"audited-round-{number}", "failing"):
        record = records[sample_of(item)]
        bad = record["instruction"] == "Judge the plot of this text." and record["task_type"] == "scoring"
        wrong = (
            Given("submitted", "wrong", ("wrong answer",), 1, correction=str(int(record["answer"]) % 5 + 1))
            if bad
            else None
        )
        answers.append((item["id"], wrong or Given("submitted", "correct")))
    give(ann, answers)


def test_an_instruction_that_fails_is_dropped_and_a_new_round_has_to_confirm_the_rest(
    failed: RunFolder, argilla_server: LocalServer, tmp_path: Path
) -> None:
    folder = copied(failed, tmp_path / "run")
    before = folder.read_table("decisions").filter("kept").join(folder.read_table("responses"), on="sample_id")
    its = set(before.filter(pl.col("instruction_id") == FAILING)["sample_id"])
    done("review", "apply", folder.path)
    rejected = rows_of(folder.dataset_path, "rejected").filter(pl.col("rejected_by") == "audit")
    assert set(rejected["id"]) == its
    assert rejected["reason"].str.contains("wrong in the failing stratum plot . scoring").all()
    assert set(rows_of(folder.dataset_path, "default")["id"]) == set(before["sample_id"]) - its
    refused = in_process("publish", folder.path, "--to", tmp_path / "published")
    assert refused.returncode == 1
    assert "a new round has to confirm the rest" in " ".join(refused.stderr.split())
    done("review", "push", folder.path)
    answer_round(folder, argilla_server, 2)
    first, second = (json.loads((folder.review_path / f"round-{number}.json").read_text()) for number in (1, 2))
    assert len(second) == 110
    assert not {one["sample_id"] for one in first} & {one["sample_id"] for one in second}
    findings = pulled(folder)
    assert (findings["decision"], findings["failing"]) == ("accepted", [])
    assert findings["error_rate"]["rows"] == len(before) - len(its)
    done("review", "apply", folder.path)
    done("publish", folder.path, "--to", tmp_path / "published")
    assert set(rows_of(tmp_path / "published", "default")["id"]) == set(before["sample_id"]) - its


def test_an_instruction_that_fails_is_asked_again_with_corrections(failed: RunFolder, tmp_path: Path) -> None:
    folder = copied(failed, tmp_path / "run")
    recipe = yaml.safe_load(folder.recipe_path.read_text())
    recipe["review"]["failing"] = "requeue"
    folder.recipe_path.write_text(yaml.safe_dump(recipe))
    reviews = pl.read_parquet(folder.review_path / "reviews.parquet").filter(pl.col("verdict") == "wrong")
    rows = folder.read_table("responses").join(folder.read_table("texts"), on="text_id")
    text_of = dict(rows.select("sample_id", "text").iter_rows())
    wanted = {
        (text_of[sample], correction) for sample, correction in reviews.select("sample_id", "correction").iter_rows()
    }
    out = done("review", "apply", folder.path)
    assert "requeue: instruction i-plot-scoring" in out
    assert "stillhouse run" in out.partition("Next:")[2]
    table = folder.read_table("instructions").filter("kept")
    assert len(table) == 40
    for row in table.iter_rows(named=True):
        demos = {(demo["text"], demo["output"]) for demo in row["demos"]}
        assert demos == (wanted if row["name"] == "plot scoring" else set())
    edits = yaml.safe_load(folder.edits_path.read_text())["instructions"]
    (entry,) = [entry for entry in edits if entry["name"] == "plot scoring"]
    assert {(demo["text"], demo["output"]) for demo in entry["demos"]} == wanted
    assert len(wanted) > 2
    assert not {"instructions", "responses", "decisions", "gates", "dataset"} & folder.manifest()["stages"].keys()
