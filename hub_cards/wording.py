"""What of a text is compared with evaluation sets: its words, and stable 64-bit hashes of runs of them."""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]

# What differs between copies of one text: web addresses and user names (data sets replace them by http and @user),
# line breaks as HTML or as an escape, brackets as the Penn Treebank writes them.
NOISE = re.compile(r"https?://\S*|\bhttps?\b|www\.\S+|(?<!\w)@\w+|</?(?:br|p|i|b|em|strong)\s*/?>|\\[nrt]|-[lr]rb-")
# "don't" and the Treebank's "do n't" are one word, dont.
APOSTROPHE = re.compile(r"(?:\s+(?=n['’]t\b|['’](?:s|re|ve|ll|d|m)\b))|['’]")
# Letters and digits; Chinese and Japanese have no spaces, so there each character is a word.
SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")
CACHED_WORDS = 2**18
# Odd, so that no bit is lost when hashes are multiplied by it. Its powers 1 to 13 are far from each other.
FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Return the words of a text as they are compared.

    HTML entities are resolved; NFKC and case folding; web addresses, @names, line break marks and apostrophes are left
    out; of the rest only letters and digits stay.
    """
    folded = unicodedata.normalize("NFKC", html.unescape(text)).casefold()
    return WORD.findall(APOSTROPHE.sub("", NOISE.sub(" ", folded)))


def hash_wording(parts: Sequence[str]) -> int:
    """Return the hash of a whole text, the same for "ice cream" and "icecream": tokenizers split words differently."""
    return _hash("".join(parts))


def hash_words(texts: Sequence[list[str]]) -> tuple[Hashes, Counts]:
    """Return the hashes of the words of all texts, one after another, and the number of words of each text."""
    counts = np.fromiter(map(len, texts), np.int64, len(texts))
    return np.fromiter(map(_hash_word, chain.from_iterable(texts)), np.uint64, int(counts.sum())), counts


def hash_grams(hashes: Hashes, counts: Counts, sizes: Sequence[int]) -> Iterator[tuple[int, Counts, Hashes]]:
    """Yield the grams of some sizes: all runs of so many words inside one text.

    Args:
        hashes: Of the words of all texts, one after another, shape (words,).
        counts: Words of each text, shape (texts,).
        sizes: Words of a gram, ascending.

    Yields:
        The size, the number of the text that each gram is of, and the hash of each gram: the sum of the hashes of its
        words times powers of FACTOR, modulo 2^64. Two arrays of shape (grams,), in the order of the words.
    """
    numbers = np.repeat(np.arange(len(counts)), counts)
    left = np.repeat(np.cumsum(counts), counts) - np.arange(len(hashes))  # words from here to the end of the text
    grams = np.zeros_like(hashes)
    for size in range(1, sizes[-1] + 1):
        reach = max(0, len(hashes) - size + 1)
        grams = grams[:reach] * FACTOR + hashes[size - 1 :]
        if size in sizes:
            inside = left[:reach] >= size
            yield size, numbers[:reach][inside], grams[inside]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_hash_word = lru_cache(CACHED_WORDS)(_hash)
