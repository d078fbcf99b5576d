"""The engine with vLLM in this process against bare `LLM.generate`, on the same prompts.

    python benchmarks/vllm_generate.py --model FOLDER                    # where vLLM is installed
    python benchmarks/vllm_generate.py --config FOLDER --layers 32       # random weights of a configuration: for speed

Each side runs in a process of its own; loading is not measured. The engine also writes every answer to its journal.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = ("room", "clean", "staff", "kind", "breakfast", "cold", "both", "days", "nobody", "said", "sorry", "again")


def main() -> None:
    """Print requests per second of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--config", type=Path, help="Folder with config.json and tokenizer.")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--memory", type=float, default=0.9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        model = given.model or random_weights(given.config, given.layers, Path(place))
        rates = {side.__name__: _in_process(side, model, given) for side in (bare, engine)}
    for name, rate in rates.items():
        print(f"{name:8} {rate:8.1f} requests/s")
    print(f"ratio    {rates['engine'] / rates['bare']:8.3f}")


def _in_process(side: Any, model: Path, given: argparse.Namespace) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=side, args=(str(model), given, queue))
    process.start()
    process.join()
    return float(queue.get(timeout=10))


def random_weights(config: Path, layers: int | None, place: Path) -> Path:
    """Save a model of a configuration, with random weights in bfloat16 and the folder's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings = AutoConfig.from_pretrained(config)
    settings.num_hidden_layers = layers or settings.num_hidden_layers
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForCausalLM.from_config(settings).save_pretrained(place)
    AutoTokenizer.from_pretrained(config).save_pretrained(place)
    return place


def prompts(count: int) -> list[str]:
    """Return texts that share no beginning."""
    return [f"{number}: " + " ".join(WORDS[number % 7 :] * 6) for number in range(count)]


def bare(model: str, given: argparse.Namespace, queue: Any) -> None:
    """Put the rate of `LLM.generate` into the queue."""
    import torch
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        max_model_len=2048,
        max_num_seqs=given.in_flight,
        gpu_memory_utilization=given.memory,
        enforce_eager=not torch.cuda.is_available(),
    )
    settings = [SamplingParams(temperature=1.0, max_tokens=given.max_tokens, seed=1, ignore_eos=True)] * given.prompts
    llm.generate(prompts(8), settings[:8], use_tqdm=False)
    started = time.perf_counter()
    llm.generate(prompts(given.prompts), settings, use_tqdm=False)
    queue.put(given.prompts / (time.perf_counter() - started))


def engine(model: str, given: argparse.Namespace, queue: Any) -> None:
    """Put the rate of the engine into the queue."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from pipelines.calls import Call
    from pipelines.engine import Engine
    from stillhouse.progress import Unseen
    from stillhouse.recipe import Runtime, Teacher

    teacher = Teacher(backend="vllm", model=model, api="completion")
    runtime = Runtime(concurrency=given.in_flight, gpu_memory=given.memory)
    with tempfile.TemporaryDirectory() as place, Engine(teacher, runtime, Path(place) / "j", Unseen()) as asking:

        async def handle(prompt: str) -> bool:
            options = {"ignore_eos": True}
            return bool(
                await asking.answer(Call(model, None, "completion", prompt, None, 1.0, given.max_tokens, 1, options))
            )

        asking.each((f"warm {text}" for text in prompts(8)), handle, "warm", 8)
        started = time.perf_counter()
        asking.each(prompts(given.prompts), handle, "responses", given.prompts)
        queue.put(given.prompts / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
