"""Separate from all the rest: a published dataset in, a trained student out."""
