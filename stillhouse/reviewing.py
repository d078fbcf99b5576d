"""The audit of a run: rounds are drawn and sent, answers pulled, findings shown and applied."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console

from stillhouse.display import Display, print_json
from stillhouse.errors import InputError
from stillhouse.job import opened, put_instructions, quiet_libraries, undo_stages, write_kept
from stillhouse.recipe import Recipe, from_options, load_recipe
from stillhouse.review_display import show_findings, show_plan
from stillhouse.sections import Review
from stillhouse.stages import build_of
from stillhouse.store import RunFolder

if TYPE_CHECKING:
    from curation.audit.argilla import Argilla
    from curation.audit.plan import Plan
    from curation.audit.records import Answer, Record
    from curation.audit.rounds import Failure, Round, Rounds

READ = ("texts", "perspectives", "instructions", "responses", "decisions")


@dataclass(frozen=True)
class Audit:
    """What is known of a run's audit."""

    folder: RunFolder
    recipe: Recipe
    settings: Review
    rounds: "Rounds"
    population: pl.DataFrame

    @property
    def findings(self) -> dict[str, Any]:
        """What the verdicts say so far."""
        from curation.audit.assessment import assess

        return assess(self.population, self.rounds, self.settings)

    def batches(self, made: "Round") -> dict[str, list["Record"]]:
        """Return the records of a round by the name of their dataset.

        In Argilla a dataset has one number of answers per record, so those of the overlap have a dataset of their own.
        """
        name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{self.recipe.name}-round-{made.number}")
        parts: dict[str, list[Record]] = {}
        for record in self.rounds.records(made):
            parts.setdefault(name if record.answers == 1 else f"{name}-overlap", []).append(record)
        return parts


def audit_of(path: Path, changes: Mapping[str, Any] | None = None) -> Audit:
    """Return a run's audit; `changes` go before the recipe's `review`. Raises InputError before there are decisions."""
    from curation.audit.population import population_of, without
    from curation.audit.rounds import Rounds

    folder = opened(path)
    if "decisions" not in folder.manifest()["stages"]:
        raise InputError(f"{path} has no decisions on its present responses yet; `stillhouse run` makes them")
    recipe = load_recipe(folder.recipe_path)
    settings = from_options(Review, {**recipe.review.model_dump(), **(changes or {})})
    rounds = Rounds(folder.review_path)
    tables = {name: folder.scan_table(name) for name in ("responses", "instructions", "decisions")}
    return Audit(folder, recipe, settings, rounds, without(population_of(tables), rounds.dropped))


def push_round(
    path: Path, changes: Mapping[str, Any], to: Path | None = None, plan_only: bool = False, another: bool = False
) -> None:
    """Send a round to Argilla or into a file, after showing its plan; one that is not answered yet is sent again.

    Raises InputError where there is nothing left to ask, or the place to send it to is not known.
    """
    from curation.audit.handouts import check_review_file

    quiet_libraries()
    display = Display(Console())
    if to:
        check_review_file(to)
    with opened(path).locked():
        audit = audit_of(path, changes)
        pending = None if another else _pending(audit)
        if pending:
            display.warn(
                f"round {pending.number} is still open; it is sent again as it was drawn. --next draws another"
            )
        if pending is None or plan_only:
            plan = plan_of(audit)
            show_plan(display.console, plan, audit.settings, len(audit.rounds.all) + 1)
        if plan_only:
            given = "".join(f" --{name} {value}" for name, value in changes.items())
            display.next_command(f"stillhouse review push {path}{given}{' --next' * bool(another)}")
            return
        server = None if to else _server(audit.settings)
        made = pending or _add_round(audit, plan)
        if to:
            _write_file(audit, made, to, display)
        elif server:
            _send(audit, made, server, display)


def _add_round(audit: Audit, plan: "Plan") -> "Round":
    made = audit.rounds.add(plan.frame, records_of(audit, plan.frame), audit.settings)
    undo_stages(audit.folder, "audit")  # findings are other ones with records that wait
    return made


def _pending(audit: Audit) -> "Round | None":
    """Return the last round of this generation where some of its records still wait for an answer."""
    from curation.audit.verdicts import KEYS

    if not audit.rounds.current:
        return None
    last = audit.rounds.current[-1]
    open_ = audit.rounds.drawn([last]).join(audit.rounds.waiting(for_all=True), on=KEYS, how="semi")
    return last if len(open_) else None


def plan_of(audit: Audit) -> "Plan":
    """Draw the next round: of kept rows, and of those that filters dropped. Raises InputError where none is left."""
    from curation.audit.assessment import BEFORE, placed
    from curation.audit.plan import DROPPED, KEPT, draw_dropped, draw_kept, joined, records_needed
    from curation.audit.strata import stratify

    settings, seed, current = audit.settings, audit.recipe.seed, audit.rounds.current
    settlement = audit.rounds.settlement(settings.arbiter)
    rows = _with_taken(audit, settlement)
    kept = placed(rows.filter(pl.col("population") == KEPT), audit.rounds, settlement)
    kept = kept.filter(pl.col("stratum") != BEFORE)
    if kept.is_empty():
        raise InputError(f"{audit.folder.path} keeps no rows that could be asked about")
    if kept["settled"].all():
        raise InputError("every kept row has a verdict, or was asked about; there is nothing left to ask")
    expected = max(settings.expected, (audit.findings["error_rate"]["rate"] or 0.0) if current else 0.0)
    if expected >= settings.bar and settings.records is None:
        raise InputError(
            f"the error rate found, {expected:.1%}, is not below the bar of {settings.bar:.1%}: more records would not "
            "make it pass. `stillhouse review apply` mends what was found; --records asks for more all the same"
        )
    if not current:
        fewest = settings.records or records_needed(settings, expected, len(kept))
        kept = kept.with_columns(stratify(kept, audit.folder.read_table("perspectives"), settings, fewest, seed))
    plan = draw_kept(kept, settings, expected, seed)
    dropped = rows.filter(pl.col("population") == DROPPED).with_columns(stratum=pl.col("stage"))
    return plan if current else joined(plan, draw_dropped(dropped, settings, seed))


def _with_taken(audit: Audit, settlement: pl.DataFrame) -> pl.DataFrame:
    """Return the population with `settled`: a verdict, or asked about in this generation; ties may be asked again."""
    from curation.audit.verdicts import CONFLICT, KEYS, SETTLED

    done = settlement.filter(pl.col("verdict").is_in(SETTLED)).select(KEYS)
    ties = settlement.filter(pl.col("verdict") == CONFLICT).select(KEYS)
    asked = audit.rounds.drawn(audit.rounds.current).select(KEYS).join(ties, on=KEYS, how="anti")
    taken = pl.concat([done, asked]).unique().with_columns(settled=pl.lit(value=True))
    rows = audit.population.join(taken, on=KEYS, how="left", maintain_order="left")
    return rows.with_columns(pl.col("settled").fill_null(value=False))


def records_of(audit: Audit, frame: pl.DataFrame) -> list["Record"]:
    """Return the drawn rows of a frame as annotators are shown them; in files, those of one instruction together."""
    from curation.audit.records import record_of

    table = {name: audit.folder.scan_table(name) for name in READ}
    heads = table["perspectives"].select("perspective_id", pl.col("head").alias("perspective"))
    rows = (
        frame.lazy()
        .filter("drawn")
        .join(table["decisions"].select("sample_id", "difficulty"), on="sample_id", maintain_order="left")
        .join(table["responses"].drop("reason"), on="sample_id", maintain_order="left")
        .join(table["texts"].select("text_id", "text", "domain"), on="text_id", maintain_order="left")
        .join(table["instructions"].drop("reason"), on="instruction_id", maintain_order="left")
        .join(heads, on="perspective_id", maintain_order="left")
        .sort("instruction_id", maintain_order=True)
    )
    return [record_of(row) for row in rows.collect().iter_rows(named=True)]


def _server(settings: Review) -> "Argilla":
    from curation.audit.argilla import Argilla

    url, key = settings.url or os.environ.get("ARGILLA_API_URL"), os.environ.get(settings.api_key_env)
    if not url or not key:
        lacking = (
            "the server: set ARGILLA_API_URL or `review.url`" if not url else f"its key: set {settings.api_key_env}"
        )
        raise InputError(
            f"Argilla is not known; {lacking}. `stillhouse review up` starts one here and says both; --to FILE works "
            "without a server"
        )
    return Argilla(url, key, settings.workspace)


def _send(audit: Audit, made: "Round", server: "Argilla", display: Display) -> None:
    from curation.audit.argilla import Batch

    sent = 0
    with display:
        for name, records in audit.batches(made).items():
            display.start(name, len(records))
            batch = Batch(name, records, records[0].answers)
            sent += server.push(batch, _vectors(audit.folder, records), display.update)
    told = f"{sent:,} sent" if sent else "nothing new to send"
    display.console.print(f"Round {made.number}: {made.records:,} records at {server.url}, workspace "
                          f"{audit.settings.workspace}; {told}")  # fmt: skip
    display.next_command(f"stillhouse review pull {audit.folder.path}")


def _vectors(folder: RunFolder, records: Sequence["Record"]) -> dict[str, Any]:
    """Return the embedding of each record's text, so that Argilla finds similar records; none where one has none."""
    from curation.vectors import PARTS, load_vectors

    vectors = load_vectors(folder.vectors_path)
    if vectors is None:
        return {}
    ids = sorted({record.sample_id for record in records} & set(vectors.ids))
    text = PARTS.index("text") if len(vectors.parts) == len(PARTS) else 0  # of imported rows: the prompt
    return dict(zip(ids, vectors.part(text, ids), strict=True))


def _write_file(audit: Audit, made: "Round", to: Path, display: Display) -> None:
    from curation.audit.handouts import write_review_file

    write_review_file(to, audit.rounds.records(made), audit.recipe.name, made.number)
    display.console.print(f"Round {made.number}: {made.records:,} records written to {to}, a copy for each annotator")
    filled = f"{audit.recipe.name}-round-{made.number}-NAME.json" if to.suffix == ".html" else str(to)
    display.next_command(f"stillhouse review pull {audit.folder.path} --from {filled}")


def pull_answers(
    path: Path, files: Sequence[Path] = (), annotator: str | None = None, as_json: bool = False
) -> dict[str, Any]:
    """Take in the answers of all rounds, from Argilla or from files, and show what they say; return that."""
    quiet_libraries()
    display = Display(Console(stderr=as_json))
    with opened(path).locked():
        audit = audit_of(path)
        if not audit.rounds.all:
            raise InputError(f"no round of {path} was drawn yet; `stillhouse review push {path}` draws one")
        fresh = _from_files(audit, files, annotator, display) if files else _from_argilla(audit, display)
    display.console.print(f"{fresh:,} new or changed answers")
    return show_review(path, as_json)


def _from_argilla(audit: Audit, display: Display) -> int:
    """Take in what is at the server. Raises InputError where a dataset is gone whose answers are still waited for."""
    server, fresh, gone = _server(audit.settings), 0, []
    with display:
        for made in audit.rounds.all:
            for name, records in audit.batches(made).items():
                display.start(name, len(records))
                answers = server.pull(name, records, display.update)
                if answers is None:
                    gone.append((made, name))
                else:
                    fresh += _keep(audit, made, answers, "argilla")
    pending = _pending(audit)
    names = ", ".join(name for made, name in gone if made == pending)
    if names:
        raise InputError(
            f"{names}: not at {server.url}, or not any more. Verdicts pulled before are kept; `stillhouse review push "
            f"{audit.folder.path}` sends its records again"
        )
    return fresh


def _keep(audit: Audit, made: "Round", answers: Sequence["Answer"], source: str) -> int:
    """Put answers down; findings that do not know the new ones among them are no longer valid."""
    fresh = audit.rounds.fresh(made, answers, source)
    if len(fresh):
        undo_stages(audit.folder, "audit")
        audit.rounds.keep(fresh)
    return len(fresh)


def _from_files(audit: Audit, files: Sequence[Path], annotator: str | None, display: Display) -> int:
    from curation.audit.handouts import read_answers

    records = {made.number: audit.rounds.records(made) for made in audit.rounds.all}
    everything = [record for made in audit.rounds.all for record in records[made.number]]
    fresh = 0
    for file in files:
        answers = read_answers(file, everything, annotator)
        for made in audit.rounds.all:
            mine = {(record.sample_id, record.version) for record in records[made.number]}
            part = [answer for answer in answers if (answer.sample_id, answer.version) in mine]
            fresh += _keep(audit, made, part, file.name)
        for problem in filter(None, (answer.problem for answer in answers)):
            display.warn(problem)
    return fresh


def show_review(path: Path, as_json: bool = False) -> dict[str, Any]:
    """Print rounds, error rate, strata, agreement and the decision of a run's audit; return them."""
    audit = audit_of(path)
    findings = audit.findings
    if as_json:
        print_json(findings)
        return findings
    display = Display(Console())
    show_findings(display.console, findings)
    display.next_command(*_next(audit, findings))
    return findings


def _next(audit: Audit, findings: dict[str, Any]) -> list[str]:
    path = audit.folder.path
    if not audit.rounds.current:
        return [f"stillhouse review push {path}"]
    if findings["failing"]:
        return [f"stillhouse review apply {path}", f"stillhouse review push {path}"]
    if findings["decision"] == "accepted":
        return [f"stillhouse review apply {path}", f"stillhouse publish {path} --to OWNER/NAME"]
    return [f"stillhouse review pull {path}"] if _pending(audit) else [f"stillhouse review push {path}"]


def apply_findings(path: Path) -> dict[str, int]:
    """Drop or re-queue the instructions that failed, put corrections in place, and write the dataset anew.

    Returns how many samples were accepted, corrected, rejected. Re-queued instructions are answered by the next `run`.
    """
    quiet_libraries()
    display = Display(Console())
    folder = opened(path)
    with folder.locked():
        audit = audit_of(path)
        demos = _demonstrations(audit)
        failures = _failures(audit, demos, display)
        again = {failure.instruction_id for failure in failures if failure.action == "requeue"}
        if again:
            _requeue(audit.folder, {key: demos[key] for key in again})
        if failures:  # put down before stages are undone: a kill in between leaves something to go on from
            audit.rounds.fail(failures)
            undo_stages(folder, "instructions" if again else "audit")
    for failure in failures:
        display.warn(f"{failure.action}: instruction {failure.instruction_id}: {failure.reason}")
    if again:
        display.next_command(f"stillhouse run {folder.recipe_path} --out {path}", f"stillhouse review push {path}")
        return {}
    with display:
        manifest = build_of(audit.recipe, folder, display).run(until="dataset")
    if audit.recipe.imported:
        with folder.locked():
            write_kept(folder, display)
    display.next_command(f"stillhouse review status {path}")
    counts: dict[str, int] = manifest["stages"]["audit"]["counts"]
    return counts


def _failures(audit: Audit, taught: Collection[str], display: Display) -> list["Failure"]:
    """Return what failed in this generation; the instructions `taught` can be re-queued, the others are dropped."""
    from curation.audit.plan import KEPT
    from curation.audit.rounds import Failure

    found: dict[str, Failure] = {}
    for entry in audit.findings["failing"] if audit.rounds.current else []:
        key = entry["instruction_id"]
        reason = f"{entry['wrong']} of {entry['settled']} wrong in the failing stratum {entry['stratum']}"
        action = "requeue" if key in taught else "drop"
        found.setdefault(key, Failure(key, audit.rounds.generation, action, reason))
    if found and set(found) >= set(audit.population.filter(pl.col("population") == KEPT)["instruction_id"]):
        display.warn("every instruction fails, so none is dropped: the data as a whole is not good enough")
        return []
    return list(found.values())


def _demonstrations(audit: Audit) -> dict[str, list[dict[str, str]]]:
    """Return people's valid corrections (text, output) by instruction, where failing ones are asked again.

    Of imported data nothing can be asked again.
    """
    from curation.audit.outcome import corrected_answer, judged_samples
    from curation.audit.verdicts import KEYS

    demos: dict[str, list[dict[str, str]]] = {}
    if audit.settings.failing != "requeue" or audit.recipe.imported:
        return demos
    given = audit.rounds.settlement(audit.settings.arbiter).drop_nulls("correction").select(*KEYS, "correction")
    judged = judged_samples(
        audit.population.join(given, on=KEYS), {name: audit.folder.scan_table(name) for name in READ}
    )
    for row in judged.iter_rows(named=True):
        answer, _, fault = corrected_answer(row, row["correction"])
        if not fault:
            demos.setdefault(row["instruction_id"], []).append({"text": row["text"], "output": answer})
    return demos


def _requeue(folder: RunFolder, demos: Mapping[str, list[dict[str, str]]]) -> None:
    """Make corrections the demonstrations of instructions, so that the teacher is asked all their samples anew."""
    from pipelines.edits import Entry, entries_of

    entries = entries_of(folder.read_table("instructions"), folder.read_table("perspectives"))
    for entry in entries:
        if entry["id"] in demos:
            entry["demos"] = demos[entry["id"]]
    put_instructions(folder, [Entry.model_validate(entry) for entry in entries])
