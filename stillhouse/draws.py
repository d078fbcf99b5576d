"""Random numbers that depend on a key and nothing else: the same in every run, on every machine, in any order."""

import hashlib


def uniform(key: str) -> float:
    """Return the number in [0, 1) that belongs to `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    # 53 bits fill a double exactly: 1.0 cannot come out.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
