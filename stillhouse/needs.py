"""What `stillhouse doctor` finds out about servers, and about what a recipe names: texts, models, teacher, sets."""

import asyncio
import os
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from stillhouse.checks import Check, State, examined
from stillhouse.cluster import Cluster
from stillhouse.encoder import check_encoder
from stillhouse.errors import RunError
from stillhouse.files import read_file, require_columns, source_files
from stillhouse.models import check_causal_lm, gguf_file
from stillhouse.recipe import Recipe
from stillhouse.sections import Review, Runtime, Teacher, TextSource

SERVICE_SECONDS = 3  # that Argilla and the Hub are given to answer
TEACHER_SECONDS = 60  # that a teacher is: it may have to load its model first


def check_argilla(settings: Review) -> Check:
    """Ask the Argilla server of a recipe or of the environment for its version and who we are."""
    name, where, key_name = "Argilla", "ARGILLA_API_URL", settings.api_key_env
    url, key = settings.url or os.environ.get(where), os.environ.get(key_name)
    if not url:
        start = f"set {where} and {key_name}; `stillhouse review up --install` starts one here; files need none"
        return Check(name, "not asked", f"{where} is not set", start)
    if not key:
        return Check(name, "fault", f"{url} has no key: {key_name} is not set", f"set {key_name}, or unset {where}")
    from curation.audit.argilla import Argilla

    try:
        version, user, role = Argilla(url, key, settings.workspace, SERVICE_SECONDS).about()
    except RunError as error:
        return Check(name, "warning", str(error))
    state: State = "ok" if role in ("owner", "admin") else "warning"
    remedy = "" if state == "ok" else "to send records, use the key of an owner or of an admin of the workspace"
    return Check(name, state, f"{url} runs Argilla {version} and knows this key: {user}, {role}", remedy)


def check_hub() -> Check:
    """Ask the Hub whose token is set here. It is never shown."""
    from hub_cards.hub import account

    try:
        found = account(SERVICE_SECONDS)
    except RunError as error:
        return Check("Hub", "warning", str(error), "offline models and local folders work without it")
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if not found.user:
        return Check("Hub", "not asked", f"{found.endpoint} answers; no token is set", f"to publish, {login}")
    if not found.may_write:
        told = f"{found.endpoint} knows the token: {found.user}, who may only read with it"
        return Check("Hub", "warning", told, f"to publish, make a token that may write, and {login}")
    return Check("Hub", "ok", f"{found.endpoint} knows the token: {found.user}, who may write with it")


def check_needs(recipe: Recipe) -> Iterator[Check]:
    """Yield the checks of all that a recipe names."""
    for source in recipe.texts.sources:
        yield examined("texts", partial(_texts, source, recipe))
    if not recipe.imported:
        yield from _teacher(recipe)
        name = "perspectives.encoder"
        yield examined(name, partial(_encoder, name, recipe.perspectives.encoder))
    if recipe.runtime.ray:
        yield examined("Ray cluster", partial(_cluster, recipe.runtime))
    curation = recipe.curation
    yield examined("curation.encoder", partial(_encoder, "curation.encoder", curation.encoder))
    for key in ("student", "proxy"):
        name, model, revision = f"curation.{key}", getattr(curation, key), getattr(curation, f"{key}_revision")
        if model:
            yield examined(name, partial(_causal_lm, name, model, revision))
    leaks = recipe.publish.leaks
    for source in leaks.evaluation:
        yield examined("evaluation set", partial(_evaluation, source))
    if not leaks.sentibench and not leaks.evaluation:
        yield Check("evaluation set", "warning", "the recipe names none", "see `publish.leaks`")


def _texts(source: TextSource, recipe: Recipe) -> Check:
    if source.dataset:
        return Check("texts", "not asked", f"{source.dataset} is on the Hub; the run loads it")
    files = source_files(source)
    rows = read_file(files[0])
    wanted = [name for name in (source.column, source.domain_column) if name]
    if recipe.imported:
        columns = [recipe.imported.prompt, recipe.imported.completion]
        wanted = ["messages"] if "messages" in rows.columns and not set(columns) <= set(rows.columns) else columns
    require_columns(wanted, rows.columns, str(files[0]))
    more = f" in the first of {len(files)} files" if len(files) > 1 else ""
    return Check("texts", "ok", f"{len(rows):,} rows{more} with {' and '.join(wanted)}: {files[0]}")


def _cluster(runtime: Runtime) -> Check:
    with Cluster(runtime) as cluster:
        return Check("Ray cluster", "ok", f"{runtime.ray}: {cluster.about()}, each with this stillhouse and Python")


def _teacher(recipe: Recipe) -> Iterator[Check]:
    teacher = recipe.teacher
    if not teacher.base_urls:
        yield examined("teacher", partial(_local_teacher, teacher))
        return
    if os.environ.get(teacher.api_key_env):
        yield Check("teacher key", "ok", f"{teacher.api_key_env} is set")
    else:
        hint = f"set {teacher.api_key_env}, unless the server asks for no key"
        yield Check("teacher key", "warning", f"{teacher.api_key_env} is not set", hint)
    for url in teacher.base_urls:
        yield examined("teacher", partial(_served_teacher, teacher, url))


def _local_teacher(teacher: Teacher) -> Check:
    if teacher.backend == "vllm" and find_spec("vllm") is None:
        return Check("teacher", "fault", "vLLM is not installed here", "pip install vllm, or use `backend: endpoint`")
    if teacher.backend == "embedded" and not teacher.model.startswith("package:"):
        return Check("teacher", "ok", f"{gguf_file(teacher.model)} is there")
    return _causal_lm("teacher", teacher.model, teacher.revision)


def _served_teacher(teacher: Teacher, url: str) -> Check:
    return Check("teacher", "ok", asyncio.run(_asked(teacher, url)))


async def _asked(teacher: Teacher, url: str) -> str:
    """Ask a server for its models and, as a run does, whether it keeps to a JSON Schema; return what it did."""
    from pipelines.teachers.backend import TransientError
    from pipelines.teachers.endpoint import Endpoint, check_endpoint, open_endpoint
    from pipelines.teachers.probing import find_dialect

    endpoint = Endpoint(url, teacher.model, teacher.api_key_env, TEACHER_SECONDS, limit=1)
    try:
        async with asyncio.timeout(TEACHER_SECONDS), open_endpoint(endpoint) as backend:
            await check_endpoint(backend)
            if not teacher.structured_output:
                return f"{url} answers; `teacher.structured_output` is off, so JSON Schemas are not sent"
            started = time.monotonic()
            dialect = await find_dialect(backend, teacher)
    except (TransientError, TimeoutError) as error:
        cause = str(error) or f"no answer to a short question within {TEACHER_SECONDS} s"
        raise RunError(f"teacher {url}: {cause}. See what the server says of it") from error
    seconds = time.monotonic() - started
    return f"{url} serves {teacher.model} and keeps to a JSON Schema (`{dialect}`), found out in {seconds:.1f} s"


def _causal_lm(name: str, reference: str, revision: str | None) -> Check:
    check_causal_lm(reference)
    return _place_of(name, reference, revision)


def _encoder(name: str, reference: str | list[str]) -> Check:
    check_encoder(reference)
    found = [_place_of(name, one) for one in ([reference] if isinstance(reference, str) else reference)]
    return next((check for check in found if check.state != "ok"), found[0])


def _place_of(name: str, reference: str, revision: str | None = None) -> Check:
    """Say where a model is: in a package, in a folder, in the cache of the Hub, or not here yet."""
    if reference.startswith("package:"):
        return Check(name, "ok", f"{reference} is installed")
    if Path(reference).expanduser().exists():
        return Check(name, "ok", f"{reference} is a model folder")
    from hub_cards.hub import is_cached

    if is_cached(reference, revision):
        return Check(name, "ok", f"{reference} is in the cache of the Hub")
    return Check(name, "warning", f"{reference} is not here yet", "its first use downloads it from the Hub")


def _evaluation(source: TextSource) -> Check:
    from hub_cards.evaluation import evaluation_files

    files = evaluation_files(source)
    if not files:
        return Check("evaluation set", "not asked", f"{source.dataset} is on the Hub; the run loads it")
    return Check("evaluation set", "ok", f"{len(files)} files in {source.path}")
