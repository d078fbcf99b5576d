"""Near-duplicates of texts by their wording: MinHash LSH proposes pairs, their exact Jaccard similarity decides.

Broder, "On the resemblance and containment of documents", 1997; Leskovec et al., "Mining of Massive Datasets", ch. 3.
"""

from collections.abc import Sequence

import polars as pl

SHINGLE = 5  # characters: as many in a language without spaces, and one typing error leaves most of them
HASHES = 256
RECALL = 0.98


def find_lexical_duplicates(texts: Sequence[str] | pl.Series, threshold: float) -> list[bool]:
    """Say of each text whether a text before it that is no duplicate is so similar: first wins, as in `texts`.

    Similarity is the Jaccard similarity |A & B| / |A | B| of the sets of shingles. Of pairs just at the threshold at
    least RECALL are compared, of those above it more; which, depends on the texts alone.
    """
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=threshold, num_perm=HASHES, num_bands=band_count(threshold))
    found = []
    for number, text in enumerate(texts):
        sketch = RMinHash(num_perm=HASHES, seed=0)
        sketch.update(shingles(text))
        found.append(any(jaccard(text, texts[other]) >= threshold for other in index.query(sketch)))
        if not found[-1]:
            index.insert(number, sketch)
    return found


def shingles(text: str) -> list[str]:
    """Return all runs of SHINGLE characters; of a shorter text the text, so that no two short texts are alike."""
    return [text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))]


def jaccard(one: str, two: str) -> float:
    """Return the share of the shingles of either text that both have."""
    left, right = set(shingles(one)), set(shingles(two))
    both = len(left & right)
    return both / (len(left) + len(right) - both)


def band_count(threshold: float) -> int:
    """Return the least number of bands b that finds a pair at the threshold s with probability RECALL.

    With r = HASHES / b hashes in a band, a pair shares one with probability 1 - (1 - s^r)^b. Fewer bands mean fewer
    pairs to compare.
    """
    counts = (2**power for power in range(HASHES.bit_length()))
    return next((b for b in counts if 1 - (1 - threshold ** (HASHES // b)) ** b >= RECALL), HASHES)
