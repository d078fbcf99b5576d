"""The engine against a bare asyncio client that sends the same requests to the same server, and against distilabel.

    python benchmarks/throughput.py              # 50 ms and 2 s teachers, 1,000 and 20,000 rows, memory
    python benchmarks/throughput.py --trivial    # 20,000 rows, an answer that costs nothing: engine and distilabel

The server runs in a process of its own. Both clients keep the same number of requests in flight. The engine also
checks that the server is there, writes every answer to its journal before it is used, and parses it.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from pipelines.calls import Answer, Call, parse_answer
from pipelines.engine import Engine
from pipelines.journal import Journal
from pipelines.teachers import Backend
from stillhouse.progress import Unseen
from stillhouse.sections import Runtime, Teacher

PORT, MODEL = 8769, "sleeper"
TRIALS = ((0.05, 1_000, 32), (0.05, 20_000, 32), (2.0, 1_000, 250), (2.0, 20_000, 1_000))  # seconds, rows, in flight
REPLY = {
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": '{"answer": "calm"}'}}
    ],
    "usage": {"prompt_tokens": 300, "completion_tokens": 6},
}
TEXT = "The room was clean and the staff were kind, but breakfast was cold on both days. " * 12
ROUNDS = 3


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trivial", action="store_true")
    if parser.parse_args().trivial:
        print_trivial()
    else:
        print_endpoint()


def print_endpoint() -> None:
    """Print rows per second of both clients; of several rounds in turn, the best of each."""
    print("teacher   rows     in flight   bare rows/s   engine rows/s   ratio   engine's peak memory, MB")
    for delay, rows, in_flight in TRIALS:
        server = multiprocessing.get_context("spawn").Process(target=_serve, args=(delay,), daemon=True)
        server.start()
        time.sleep(2)
        rounds = ROUNDS if rows * delay / in_flight < 10 else 1
        bare = engine = 0.0
        for _ in range(rounds):
            bare = max(bare, rows / asyncio.run(_bare_seconds(rows, in_flight)))
            engine = max(engine, rows / _engine_seconds(in_flight, rows))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        told = f"{delay:5g} s   {rows:6,}   {in_flight:9,}   {bare:11.1f}   {engine:13.1f}   {engine / bare:5.3f}"
        print(f"{told}   {memory:10.0f}", flush=True)
        server.terminate()
        server.join()


def print_trivial() -> None:
    """Print the seconds that 20,000 rows take when the teacher costs nothing."""
    rows = 20_000

    class Instant:
        name, limit, adapts = "instant", 256, False

        async def send(self, call: Call) -> Answer:
            return Answer('{"answer": "calm"}', "stop", 300, 6, 0.0)

        def stop(self) -> None: ...

    @asynccontextmanager
    async def open_instant(teacher: Teacher, runtime: Runtime, journal: Journal) -> AsyncIterator[list[Backend]]:
        yield [Instant()]

    ours = min(_engine_seconds(256, rows, open_instant) for _ in range(ROUNDS))
    theirs = _distilabel_seconds(rows)
    print(f"engine, journal included   {ours:6.2f} s")
    print(f"distilabel, its defaults   {theirs:6.2f} s")
    print(f"ratio                      {theirs / ours:6.1f}")


def _serve(delay: float) -> None:
    async def reply(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(delay)
        return web.json_response(REPLY)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    application = web.Application()
    application.add_routes([web.post("/v1/chat/completions", reply), web.get("/v1/models", models)])
    web.run_app(application, host="127.0.0.1", port=PORT, print=None, backlog=4096)


def _teacher() -> Teacher:
    url = f"http://127.0.0.1:{PORT}/v1"
    return Teacher(backend="endpoint", base_url=url, model=MODEL, structured_output=False)


def _call(number: int) -> Call:
    prompt = [{"role": "user", "content": f"{number}: {TEXT}"}]
    return Call(MODEL, None, "chat", prompt, None, 0.5, 50, 42)


async def _bare_seconds(rows: int, in_flight: int) -> float:
    numbers = iter(range(rows))
    url = f"http://127.0.0.1:{PORT}/v1/chat/completions"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for number in numbers:
                call = _call(number)
                body = {"model": MODEL, "messages": call.prompt, "temperature": 0.5, "max_tokens": 50, "seed": 42}
                async with session.post(url, json=body) as reply:
                    json.loads((await reply.json())["choices"][0]["message"]["content"])

        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return time.perf_counter() - started


def _engine_seconds(in_flight: int, rows: int, open_teacher: object = None) -> float:
    with tempfile.TemporaryDirectory() as place:
        given = {"open_teacher": open_teacher} if open_teacher else {}
        started = time.perf_counter()
        runtime = Runtime(concurrency=in_flight)
        with Engine(_teacher(), runtime, Path(place) / "journal.sqlite", Unseen(), **given) as engine:  # type: ignore[arg-type]

            async def handle(number: int) -> bool | None:
                answer = await engine.answer(_call(number))
                return answer and parse_answer(answer) == {"answer": "calm"}

            engine.each(range(rows), handle, "responses", rows)
        return time.perf_counter() - started


def _distilabel_seconds(rows: int) -> float:
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts

    from benchmarks.trivial_step import Trivial

    logging.disable()
    started = time.perf_counter()
    with Pipeline(name="trivial") as pipeline:
        load = LoadDataFromDicts(data=[{"text": f"{number}: {TEXT}"} for number in range(rows)])
        load >> Trivial()
    pipeline.run(use_cache=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
