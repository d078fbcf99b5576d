"""Tests, flat: test_<folder>_<module>.py; real parts."""
