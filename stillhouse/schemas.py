"""The tables of a run: one schema each, the single place where a column is added or renamed."""

import polars as pl

from stillhouse.errors import RunError


def _schema(**columns: pl.DataType | type[pl.DataType]) -> pl.Schema:
    return pl.Schema(columns)


TEXTS = _schema(
    text_id=pl.String,
    text=pl.String,
    domain=pl.String,
    source=pl.String,
    licence=pl.String,
    language=pl.String,
)
ATTRIBUTES = _schema(
    text_id=pl.String,
    name=pl.String,
    description=pl.String,
    value=pl.String,
    call_id=pl.String,
    reason=pl.String,  # why a text has no attribute: then it has one row, without a name
)
PERSPECTIVES = _schema(
    perspective_id=pl.String,
    head=pl.String,
    members=pl.List(pl.Struct({"name": pl.String, "description": pl.String, "count": pl.Int64})),
    mentions=pl.Int64,
    share=pl.Float64,
    coherence=pl.Float64,
    x=pl.Float64,
    y=pl.Float64,
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
INSTRUCTIONS = _schema(
    instruction_id=pl.String,
    perspective_id=pl.String,
    kind=pl.String,
    task_type=pl.String,
    name=pl.String,
    instruction=pl.String,
    labels=pl.List(pl.String),
    scale=pl.List(pl.Int64),
    schema=pl.String,
    verbatim=pl.Boolean,
    examples=pl.List(DEMO),
    demos=pl.List(DEMO),
    lineage=LINEAGE,
    kept=pl.Boolean,
    reason=pl.String,
)
SPAN = pl.Struct({"start": pl.Int64, "end": pl.Int64})  # characters of the text, from 0, end excluded
RESPONSES = _schema(
    sample_id=pl.String,
    text_id=pl.String,
    instruction_id=pl.String,
    prompt=pl.String,
    output=pl.String,
    spans=pl.List(SPAN),
    status=pl.Enum(["valid", "invalid", "failed"]),
    reason=pl.String,
    attempts=pl.Int64,
    call_id=pl.String,
)
SCORES = _schema(
    sample_id=pl.String,
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
    output_tokens=pl.Int64,
    scored_positions=pl.Int64,
    unscored_reason=pl.String,
    nearest_id=pl.String,  # of a near-duplicate: the most similar kept sample before it
    nearest_similarity=pl.Float64,
)
DECISIONS = _schema(
    sample_id=pl.String,
    kept=pl.Boolean,
    stage=pl.String,  # the filter that had the last word
    reason=pl.String,
    stratum=pl.String,
    difficulty=pl.Float64,
    similarity=pl.Float64,  # to the nearest kept sample before it
    draw=pl.Float64,
    probability=pl.Float64,  # of being kept: the draw has to be below it
    threshold=pl.Float64,  # what `similarity` (stage near_duplicate) or `draw` (selection) was compared with
)

# What people did with kept samples: the row is published as the teacher answered it, with their answer, or not at all.
AUDIT = _schema(
    sample_id=pl.String,
    outcome=pl.Enum(["accepted", "corrected", "rejected"]),
    reason=pl.String,
    completion=pl.String,  # of a corrected one, with the scores of the new answer
    spans=pl.List(SPAN),
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
    faults=pl.List(pl.String),
    annotators=pl.List(pl.String),
    settled_at=pl.Datetime("us", "UTC"),
)

# What the gates found in samples, instructions and perspectives (their ids are keys), and how a redacted sample leaves.
GATES = _schema(
    key=pl.String,
    outcome=pl.Enum(["excluded", "redacted"]),
    gate=pl.String,  # leak or privacy
    reason=pl.String,
    text=pl.String,
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
    round=pl.Int64,
    sample_id=pl.String,
    version=pl.String,  # digest of what was shown: a verdict on another answer does not count
    annotator=pl.String,
    status=pl.Enum(["submitted", "draft", "discarded"]),
    verdict=pl.String,
    faults=pl.List(pl.String),
    rating=pl.Int64,
    correction=pl.String,
    comment=pl.String,
    given_at=pl.Datetime("us", "UTC"),
    source=pl.String,  # argilla, or the name of the file
    problem=pl.String,  # why it does not count: a value that is no answer to the question
)
# The sampling frame of a round: every row of the populations, drawn or not. A file per round.
FRAME = _schema(
    sample_id=pl.String,
    version=pl.String,
    population=pl.String,  # kept or dropped
    stratum=pl.String,  # of a dropped row: the filter that dropped it
    drawn=pl.Boolean,
    answers=pl.Int64,  # annotators who shall answer it; 0 where it is not drawn
)

# Failed teacher calls, as the journal holds them; not a file of its own.
FAILURES = _schema(
    stage=pl.String,
    call_id=pl.String,
    cause=pl.String,
    failed_at=pl.Datetime("ms", "UTC"),
    answered_later=pl.Boolean,
)

# A row as it is published: config `default`; `rejected` has two more columns.
PUBLISHED = _schema(
    id=pl.String,
    prompt=pl.String,
    completion=pl.String,
    messages=pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    text=pl.String,
    instruction_id=pl.String,
    task_name=pl.String,
    task_type=pl.String,
    perspective=pl.String,
    attributes=pl.List(pl.String),
    domain=pl.String,
    teacher=pl.String,
    difficulty=pl.Float64,
    perplexity=pl.Float64,
    ifd=pl.Float64,
    audit=pl.String,
    licence=pl.String,
)
# What people corrected, for whoever wants to see: the rows themselves are in `default`.
CORRECTIONS = _schema(
    id=pl.String,
    teacher_completion=pl.String,
    completion=pl.String,
    faults=pl.List(pl.String),
    annotators=pl.Int64,
    settled_at=pl.Datetime("us", "UTC"),
)
REJECTED = _schema(**PUBLISHED, rejected_by=pl.String, reason=pl.String)

# The texts of evaluation sets as hashes of their words (hub_cards/wording.py); that of SentiBench comes along.
EVALUATION = _schema(
    evaluation=pl.String,  # name of the set
    row=pl.Int64,  # position in the set, from 0
    words=pl.Int64,
    whole=pl.UInt64,  # of the whole text; null where it is too short to be looked for
    grams=pl.List(pl.UInt64),  # of every 13 words in a row; of all words where there are 8 to 12
)
# Texts that occur in evaluation sets: of each text, set and way the best.
LEAKS = _schema(
    number=pl.Int64,  # position of the text among those that were looked up, from 0
    evaluation=pl.String,
    how=pl.Enum(["exact", "contained", "13-gram", "neighbour"]),
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
        return frame.select(pl.col(column).cast(dtype, strict=True) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise RunError(f"table {name} does not fit its schema: {error}") from error


def table_of(rows: list[dict[str, object]], schema: pl.Schema, name: str) -> pl.DataFrame:
    """Make a table of `schema` from row dictionaries; no rows give an empty table of the same schema."""
    return conform(pl.DataFrame(rows, schema=schema, orient="row"), schema, name)
