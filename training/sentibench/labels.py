"""Label tasks: one forward pass per prompt, and of the output layer only the labels' own rows."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from stillhouse.errors import InputError
from stillhouse.prefixes import Tokens
from stillhouse.reading import Reader

Found = Iterator[dict[int, str]]  # predictions by place of the prompt, as they come
Report = Callable[[int, int], None]  # is told the tokens that were read, and how many prompts were cut to fit
Logits = npt.NDArray[np.float32]

CHUNK = 256  # prompts whose predictions come together, and are lost at most
SAFETY = 4.0  # a prediction in bfloat16 stands where its margin is so many standard errors
AGAIN = 8  # prompts that are read again at a time


class LabelReader:
    """A model that is asked for one of a few labels.

    Where the processor is faster in bfloat16, all prompts are read so first and the close ones once more, in the
    model's own float32, until what is left has a margin of SAFETY times the error of those (their root mean square).
    """

    def __init__(self, reader: Reader) -> None:
        """Take a loaded model."""
        self._reader, self._half = reader, reader.in_half()

    def predict(self, prompts: Sequence[str], labels: Sequence[str], report: Report) -> Found:
        """Yield the label of each prompt: the arg-max over the first tokens of the labels, each after a space.

        Scaling and soft-capping, which some models do after the output layer, leave the order as it is. A prompt that
        the model cannot read whole loses its beginning. Raises InputError where the labels' first tokens are the same.
        """
        tokens = first_tokens(self._reader, labels)
        read, room = self._reader.tokenizer(list(prompts))["input_ids"], self._reader.context - 1
        report(0, sum(len(ids) > room for ids in read))
        rows = [np.array(ids[-room:], np.int64) for ids in read]
        errors: list[float] = []
        for start in range(0, len(rows), CHUNK):
            logits = self._logits(rows[start : start + CHUNK], tokens, errors, report)
            yield {start + place: labels[best] for place, best in enumerate(logits.argmax(axis=1).tolist())}

    def _logits(self, rows: Sequence[Tokens], tokens: list[int], errors: list[float], report: Report) -> Logits:
        """Return the labels' logits, shape (rows, labels); `errors` of differences grow by those that are seen."""
        if self._half is None:
            return _read(self._reader, rows, tokens, report)
        logits = _read(self._half, rows, tokens, report)
        closest = np.sort(logits, axis=1)
        margins = closest[:, -1] - closest[:, -2]
        order = np.argsort(margins)
        for start in range(0, len(rows), AGAIN):
            again = order[start : start + AGAIN]
            if errors and margins[again[0]] > SAFETY * np.sqrt(np.mean(np.square(errors))):
                break
            right = _read(self._reader, [rows[number] for number in again], tokens, report)
            errors += np.ptp(right - logits[again], axis=1).tolist()
            logits[again] = right
        return logits


def _read(reader: Reader, rows: Sequence[Tokens], tokens: list[int], report: Report) -> Logits:
    """Return the logits of a few tokens after each prompt, shape (rows, tokens)."""
    layer = reader.model.get_output_embeddings()
    weight, bias = layer.weight[tokens].float(), getattr(layer, "bias", None)
    logits = np.empty((len(rows), len(tokens)), np.float32)
    with torch.inference_mode():
        for batch, hidden in reader.after(rows):
            found = hidden.float() @ weight.T + (0 if bias is None else bias[tokens].float())
            logits[batch.numbers] = found.cpu().numpy()
            report(batch.tokens, 0)
    return logits


def first_tokens(reader: Reader, labels: Sequence[str]) -> list[int]:
    """Return the first token of each label after a space. Raises InputError where two are the same."""
    tokens = [reader.tokenizer(f" {label}", add_special_tokens=False)["input_ids"][0] for label in labels]
    if len(set(tokens)) < len(tokens):
        raise InputError(
            f"this model's tokenizer begins several of the labels {', '.join(labels)} with the same token, so that the "
            "protocol of SentiBench cannot tell them apart; evaluate the fine-grained sets only (--tasks fine-grained)"
        )
    return tokens
