"""stillhouse inside distilabel's pipelines, a teacher and two steps: the only file that knows distilabel.

stillhouse's own stages ask the engine directly: a distilabel pipeline takes 3 s to start and waits for each batch.
"""

import os
import signal
from dataclasses import asdict, fields
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import polars as pl
from distilabel.models.llms import LLM
from distilabel.models.llms.utils import prepare_output
from distilabel.steps import GlobalStep, Step, StepInput
from distilabel.typing import StepOutput
from pydantic import Field, PrivateAttr, validate_call

from curation.difficulty import Score, score_samples
from curation.student import load_student
from curation.vectors import embed_samples
from pipelines.calls import Answer, Call
from pipelines.engine import Engine
from stillhouse.checkpoint import Checkpoint
from stillhouse.encoder import load_encoder
from stillhouse.errors import StillhouseError
from stillhouse.models import Dtype
from stillhouse.near_duplicates import find_near_duplicates
from stillhouse.progress import Unseen
from stillhouse.sections import OFFLINE_ENCODER, Runtime, Teacher
from stillhouse.series import SeriesName


class StillhouseLLM(LLM):  # type: ignore[misc]
    """Any teacher of stillhouse, for any Task of distilabel.

    `teacher` and `runtime` are the sections of a recipe, `journal_path` is the file that keeps every answer: a
    pipeline that is run again asks only for what is missing. An input may be (prompt, {"schema": JSON Schema}).

    distilabel turns an exception into a batch of None and goes on. Nothing is raised here: a call that failed is None
    for its own row, with the cause in the journal; where no further call has a chance (key refused, circuit breaker,
    disk full) what is answered is given back, nothing more is sent, and the pipeline is stopped as by Ctrl-C.
    """

    teacher: dict[str, Any]
    journal_path: str
    runtime: dict[str, Any] = Field(default_factory=dict)
    stage: str = "distilabel"
    _engine: Engine | None = PrivateAttr(default=None)
    _stopped: bool = PrivateAttr(default=False)

    @property
    def model_name(self) -> str:
        """Return the name of the teacher model."""
        return Teacher.model_validate(self.teacher).model

    def load(self) -> None:
        """Open the journal; the teacher is opened at the first call."""
        super().load()
        teacher, runtime = Teacher.model_validate(self.teacher), Runtime.model_validate(self.runtime)
        runtime = runtime.model_copy(update={"max_failed_share": 1.0})  # of so few rows as a batch has, it says nothing
        self._engine = Engine(teacher, runtime, Path(self.journal_path), Unseen()).__enter__()

    def unload(self) -> None:
        """Close the teacher and the journal."""
        if self._engine:
            self._engine.__exit__()
            self._engine = None

    @validate_call
    def generate(
        self,
        inputs: list[Any],
        num_generations: int = 1,
        temperature: float = 0.7,
        max_new_tokens: int = 512,
        seed: int = 42,
    ) -> Any:
        """Return `num_generations` answers per input; each has a seed of its own, from `seed` on."""
        settings = Teacher.model_validate(self.teacher)
        places = [(row, number) for row in range(len(inputs)) for number in range(num_generations)]
        calls = {
            (row, number): _call(settings, inputs[row], temperature, max_new_tokens, seed + number)
            for row, number in places
        }
        answers: dict[tuple[int, int], Answer | None] = dict.fromkeys(places)
        self._ask(calls, answers)
        rows = ([answers[row, number] for number in range(num_generations)] for row in range(len(inputs)))
        return [
            prepare_output(
                generations=[answer and answer.text for answer in row],
                input_tokens=[answer.prompt_tokens if answer else 0 for answer in row],
                output_tokens=[answer.output_tokens if answer else 0 for answer in row],
            )
            for row in rows
        ]

    def _ask(self, calls: dict[tuple[int, int], Call], answers: dict[tuple[int, int], Answer | None]) -> None:
        engine = self._engine
        if self._stopped or engine is None:
            return

        async def handle(place: tuple[int, int]) -> bool | None:
            answers[place] = await engine.answer(calls[place])
            return True if answers[place] else None

        try:
            engine.each(calls, handle, self.stage, len(calls))
        except (StillhouseError, KeyboardInterrupt) as error:
            self._logger.error("stopped: %s", error)  # noqa: TRY400 # a message for people
            self._stopped = True
            if parent := parent_process():
                os.kill(int(parent.pid or 0), signal.SIGINT)


def _call(teacher: Teacher, given: Any, temperature: float, max_tokens: int, seed: int) -> Call:
    prompt, structure = given if isinstance(given, tuple) else (given, {})
    api = teacher.api or "completion"
    if isinstance(prompt, list) and api == "completion":
        prompt = "\n\n".join(message["content"] for message in prompt) + "\n\n"
    elif isinstance(prompt, str) and api == "chat":
        prompt = [{"role": "user", "content": prompt}]
    schema = structure.get("schema") if teacher.structured_output else None
    return Call(teacher.model, teacher.revision, api, prompt, schema, temperature, max_tokens, seed, teacher.options())


class ScoreDifficulty(Step):  # type: ignore[misc]
    """Adds a student's difficulty, perplexity and IFD of a completion after its prompt, and why there are none."""

    student: str
    student_revision: str | None = None
    prompt: str = "instruction"
    completion: str = "generation"
    series: SeriesName | None = None
    max_length: int = 1024
    dtype: Dtype = "float32"
    device: str = "auto"
    input_batch_size: int = 512
    _student: Any = PrivateAttr(default=None)

    @property
    def inputs(self) -> list[str]:
        """Columns that are read."""
        return [self.prompt, self.completion]

    @property
    def outputs(self) -> list[str]:
        """Columns that are added."""
        return [column.name for column in fields(Score)]

    def load(self) -> None:
        """Load the student."""
        super().load()
        self._student = load_student(self.student, self.student_revision, self.device, self.dtype, self.series)

    def process(self, inputs: StepInput) -> StepOutput:
        """Score a batch."""
        pairs = [(row[self.prompt] or "", row[self.completion] or "") for row in inputs]
        scores = score_samples(pairs, self._student, self.max_length, Checkpoint())
        yield [{**row, **asdict(score)} for row, score in zip(inputs, scores, strict=True)]


class FindNearDuplicates(GlobalStep):  # type: ignore[misc]
    """Adds whether a row is `kept`, and of one that is not the row number and cosine similarity of its original.

    Rows are compared by the mean of the cosines of their `columns`; exact, and the first of several alike is kept.
    """

    columns: list[str]
    similarity: float = 0.9
    encoder: str = OFFLINE_ENCODER
    device: str = "auto"
    _encoder: Any = PrivateAttr(default=None)

    @property
    def inputs(self) -> list[str]:
        """Columns that are read."""
        return self.columns

    @property
    def outputs(self) -> list[str]:
        """Columns that are added."""
        return ["kept", "nearest", "nearest_similarity"]

    def load(self) -> None:
        """Load the encoder."""
        super().load()
        self._encoder = load_encoder(self.encoder, self.device)

    def process(self, inputs: StepInput) -> StepOutput:
        """Compare all rows."""
        ids = [str(number) for number in range(len(inputs))]
        parts = {f"part {name}": [row[name] or "" for row in inputs] for name in self.columns}
        table = pl.DataFrame({"sample_id": ids, **parts})
        near = find_near_duplicates(embed_samples(table, list(parts), self._encoder).dense(ids), self.similarity)
        found = zip(inputs, near.kept.tolist(), near.nearest.tolist(), near.similarity.tolist(), strict=True)
        yield [
            {
                **row,
                "kept": kept,
                "nearest": None if kept else nearest,
                "nearest_similarity": None if kept else similarity,
            }
            for row, kept, nearest, similarity in found
        ]
