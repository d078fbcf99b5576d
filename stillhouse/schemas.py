"""The tables of a run: one schema each, the single place where a column is added, renamed or explained.

The comment beside a column says what it holds (docs/reference/tables.md is made of them); one without is explained
where it first stands.
"""

from collections.abc import Mapping

import polars as pl

from stillhouse.errors import RunError

BATCH_ROWS = 2_000  # that are Python objects at a time


def _schema(**columns: pl.DataType | type[pl.DataType]) -> pl.Schema:
    return pl.Schema(columns)


# The user texts, each once.
TEXTS = _schema(
    text_id=pl.String,  # hash of the text but for case and spacing
    text=pl.String,  # without space at its ends
    domain=pl.String,  # of the source, or of its `domain_column`
    source=pl.String,  # name of the file, or id of the dataset
    licence=pl.String,  # of the source, or of the published row
    language=pl.String,  # ISO 639-1 code of the source
)
# What the teacher found in each text.
ATTRIBUTES = _schema(
    text_id=pl.String,
    name=pl.String,  # normalised and folded
    description=pl.String,  # what the attribute stands for
    value=pl.String,  # what this text shows
    call_id=pl.String,  # call in the journal that gave the row
    reason=pl.String,  # why a text has no attribute: then it has one row, without a name
)
MEMBER = pl.Struct({"name": pl.String, "description": pl.String, "count": pl.Int64})
# Clusters of attribute names, most mentions first.
PERSPECTIVES = _schema(
    perspective_id=pl.String,  # stays over a rebuild where more than half of the mentions stay
    head=pl.String,  # most frequent name of the cluster
    members=pl.List(MEMBER),  # attributes, each with its commonest description and the number of texts that show it
    mentions=pl.Int64,  # sum of the members' counts
    share=pl.Float64,  # of all mentions of attributes
    coherence=pl.Float64,  # mean cosine of the members to their centre
    x=pl.Float64,  # place on the plane of the two main directions
    y=pl.Float64,  # likewise
)
DEMO = pl.Struct({"text": pl.String, "output": pl.String})
LINEAGE = pl.Struct(
    {
        "attributes": pl.List(pl.String),
        "calls": pl.List(pl.String),
        "model": pl.String,
        "revision": pl.String,
        "seed": pl.Int64,
        "edited": pl.Boolean,
    }
)
# What texts are met with; those that were dropped are here too.
INSTRUCTIONS = _schema(
    instruction_id=pl.String,  # hash of perspective, type and wording
    perspective_id=pl.String,
    kind=pl.String,  # analysis or task
    task_type=pl.String,  # analysis, classification, scoring, extraction or structured
    name=pl.String,  # of the task, or of the perspective with a number
    instruction=pl.String,  # as the student reads it, with the form of the answer
    labels=pl.List(pl.String),  # closed set of a classification; empty: an open one
    scale=pl.List(pl.Int64),  # lowest and highest score
    schema=pl.String,  # JSON Schema of a structured answer
    verbatim=pl.Boolean,  # an extraction takes exact words of the text
    examples=pl.List(DEMO),  # of the definition, checked against it
    demos=pl.List(DEMO),  # demonstrations in the style of real texts
    lineage=LINEAGE,  # attributes, calls, teacher and seed that it was made of; whether a person edited it
    kept=pl.Boolean,  # whether it goes on
    reason=pl.String,  # why it does not
)
SPAN = pl.Struct({"start": pl.Int64, "end": pl.Int64})  # characters of the text, from 0, end excluded
# Pairs of a text and an instruction, answered.
RESPONSES = _schema(
    sample_id=pl.String,  # hash of text and instruction
    text_id=pl.String,
    instruction_id=pl.String,
    prompt=pl.String,  # what the student reads
    output=pl.String,  # the answer; the raw one where it is invalid
    spans=pl.List(SPAN),  # where the answer's verbatim words stand in the text
    status=pl.Enum(["valid", "invalid", "failed"]),  # valid, invalid, or failed: no answer came
    reason=pl.String,  # fault of an invalid answer
    attempts=pl.Int64,  # calls that it took
    call_id=pl.String,
)
# Valid samples under the student.
SCORES = _schema(
    sample_id=pl.String,
    difficulty=pl.Float64,  # mean rank score of the output's tokens, from 0 (easy) to 1 (hard)
    perplexity=pl.Float64,  # of the output after the prompt
    ifd=pl.Float64,  # that perplexity over the one of the output alone
    output_tokens=pl.Int64,  # of the output, under the student's tokenizer
    scored_positions=pl.Int64,  # output tokens that the student does not rank first
    unscored_reason=pl.String,  # why there is no score
    nearest_id=pl.String,  # of a near-duplicate: the most similar kept sample before it
    nearest_similarity=pl.Float64,  # its cosine
)
# The ledger: one row per sample.
DECISIONS = _schema(
    sample_id=pl.String,
    kept=pl.Boolean,
    stage=pl.String,  # the filter that had the last word
    reason=pl.String,  # in words
    stratum=pl.String,  # perspective and task type
    difficulty=pl.Float64,
    similarity=pl.Float64,  # to the nearest kept sample before it
    draw=pl.Float64,  # number from 0 to 1, by seed and sample alone
    probability=pl.Float64,  # of being kept: the draw has to be below it
    threshold=pl.Float64,  # what `similarity` (stage near_duplicate) or `draw` (selection) was compared with
)

# What people did with kept samples: the row is published as the teacher answered it, with their answer, or not at all.
AUDIT = _schema(
    sample_id=pl.String,
    outcome=pl.Enum(["accepted", "corrected", "rejected"]),  # what becomes of the sample
    reason=pl.String,  # why it is rejected
    completion=pl.String,  # of a corrected one, with the scores of the new answer
    spans=pl.List(SPAN),
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
    faults=pl.List(pl.String),  # what annotators say is wrong
    annotators=pl.List(pl.String),  # who judged it
    settled_at=pl.Datetime("us", "UTC"),  # time of the verdict that settled it
)

# What the gates found in samples, instructions and perspectives (their ids are keys), and how a redacted sample leaves.
GATES = _schema(
    key=pl.String,  # id of a sample, instruction or perspective
    outcome=pl.Enum(["excluded", "redacted"]),  # left out, or published in other words
    gate=pl.String,  # leak or privacy
    reason=pl.String,  # what was found, without its words
    text=pl.String,  # redacted, of a sample; so are prompt and completion, with the scores of the new sample
    prompt=pl.String,
    completion=pl.String,
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
)

TABLES: dict[str, pl.Schema] = {
    "texts": TEXTS,
    "attributes": ATTRIBUTES,
    "perspectives": PERSPECTIVES,
    "instructions": INSTRUCTIONS,
    "responses": RESPONSES,
    "scores": SCORES,
    "decisions": DECISIONS,
    "audit": AUDIT,
    "gates": GATES,
}

# What annotators said: every answer that was ever pulled, drafts and discarded ones too.
REVIEWS = _schema(
    round=pl.Int64,  # of the audit, from 1
    sample_id=pl.String,
    version=pl.String,  # digest of what was shown: a verdict on another answer does not count
    annotator=pl.String,  # who answered
    status=pl.Enum(["submitted", "draft", "discarded"]),  # how far the annotator went
    verdict=pl.String,  # correct, wrong or unclear
    faults=pl.List(pl.String),
    rating=pl.Int64,  # quality, from 1 to 5
    correction=pl.String,  # answer in the place of the model's
    comment=pl.String,  # in the annotator's words
    given_at=pl.Datetime("us", "UTC"),  # time of the answer
    source=pl.String,  # argilla, or the name of the file
    problem=pl.String,  # why it does not count: a value that is no answer to the question
)
# The sampling frame of a round: every row of the populations, drawn or not. A file per round.
FRAME = _schema(
    sample_id=pl.String,
    version=pl.String,
    population=pl.String,  # kept or dropped
    stratum=pl.String,  # perspectives, task type and difficulty; of a dropped row: the filter that dropped it
    drawn=pl.Boolean,  # whether it is asked about
    answers=pl.Int64,  # annotators who shall answer it; 0 where it is not drawn
)

# Failed teacher calls, as the journal holds them; not a file of its own.
FAILURES = _schema(
    stage=pl.String,  # that asked
    call_id=pl.String,  # call in the journal
    cause=pl.String,  # in the server's own words
    failed_at=pl.Datetime("ms", "UTC"),  # time of the last attempt
    answered_later=pl.Boolean,  # whether the call was answered after all
)

# A row as it is published: config `default`; `rejected` has two more columns.
PUBLISHED = _schema(
    id=pl.String,  # sample_id of the run
    prompt=pl.String,  # what the student was scored on and reads
    completion=pl.String,  # what it learns to write
    messages=pl.List(pl.Struct({"role": pl.String, "content": pl.String})),  # the same as turns of user and assistant
    text=pl.String,
    instruction_id=pl.String,
    task_name=pl.String,  # name of the instruction
    task_type=pl.String,
    perspective=pl.String,  # head of the perspective
    attributes=pl.List(pl.String),  # names of attributes that the instruction was made of
    domain=pl.String,
    teacher=pl.String,  # model that answered
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
    audit=pl.String,  # not_audited, accepted or corrected
    licence=pl.String,
)
# What people corrected, for whoever wants to see: the rows themselves are in `default`.
CORRECTIONS = _schema(
    id=pl.String,
    teacher_completion=pl.String,  # what the teacher had answered
    completion=pl.String,  # what people put in its place
    faults=pl.List(pl.String),
    annotators=pl.Int64,  # how many judged it
    settled_at=pl.Datetime("us", "UTC"),
)
# Rows that are not in `default`.
REJECTED = _schema(
    **PUBLISHED,
    rejected_by=pl.String,  # filter, audit or gate
    reason=pl.String,
)

# The texts of evaluation sets as hashes of their words (hub_cards/wording.py); that of SentiBench comes along.
EVALUATION = _schema(
    evaluation=pl.String,  # name of the set
    row=pl.Int64,  # position in the set, from 0
    words=pl.Int64,  # of the text
    whole=pl.UInt64,  # of the whole text; null where it is too short to be looked for
    grams=pl.List(pl.UInt64),  # of every 13 words in a row; of all words where there are 8 to 12
)
# Texts that occur in evaluation sets: of each text, set and way the best.
LEAKS = _schema(
    number=pl.Int64,  # position of the text among those that were looked up, from 0
    evaluation=pl.String,
    how=pl.Enum(["exact", "contained", "13-gram", "neighbour"]),  # in which way
    score=pl.Float64,  # share of the text's 13-grams that stand in the evaluation text; the cosine; else 1
    row=pl.Int64,  # of the evaluation text, in its set
)


def conform(frame: pl.DataFrame, schema: pl.Schema, name: str) -> pl.DataFrame:
    """Return `frame` with exactly the columns of `schema`, in its order and types.

    Raises RunError naming the table and columns where one is missing, is not of the schema, or cannot be cast.
    """
    missing, extra = schema.keys() - set(frame.columns), set(frame.columns) - schema.keys()
    if missing or extra:
        raise RunError(f"table {name}: missing columns {sorted(missing)}, unexpected columns {sorted(extra)}")
    try:
        return frame.select(columns_of(schema))
    except pl.exceptions.PolarsError as error:
        raise RunError(f"table {name} does not fit its schema: {error}") from error


def columns_of(schema: pl.Schema) -> list[pl.Expr]:
    """Return what selects the columns of a schema, in its order and types, of an eager or a lazy table."""
    return [pl.col(column).cast(dtype, strict=True) for column, dtype in schema.items()]


def table_of(rows: list[dict[str, object]], schema: pl.Schema, name: str) -> pl.DataFrame:
    """Make a table of `schema` from row dictionaries; no rows give an empty table of the same schema."""
    return conform(pl.DataFrame(rows, schema=schema, orient="row"), schema, name)


class Rows:
    """Rows on their way into a table: few at a time are Python objects, which take ten times the memory.

    They come in any order; each says its place.
    """

    def __init__(self, schema: pl.Schema, name: str) -> None:
        """Begin the table `name` of a schema."""
        self._schema, self._name = schema, name
        self._placed = pl.Schema([("_place", pl.Int64), *schema.items()])
        self._waiting: list[dict[str, object]] = []
        self._pieces: list[pl.DataFrame] = []

    def add(self, place: int, row: Mapping[str, object]) -> None:
        """Take a row; it comes after those of a smaller place, and after those of the same that came before."""
        self._waiting.append({"_place": place, **row})
        if len(self._waiting) >= BATCH_ROWS:
            self._settle()

    def table(self) -> pl.DataFrame:
        """Return all rows, in their order. Raises RunError as `conform` does."""
        self._settle()
        table = pl.concat(self._pieces).sort("_place", maintain_order=True)
        return conform(table.drop("_place"), self._schema, self._name)

    def _settle(self) -> None:
        self._pieces.append(table_of(self._waiting, self._placed, self._name))
        self._waiting = []
