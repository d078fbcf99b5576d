"""stillhouse: distillation datasets people can trust.

This package is the core that every part shares: table schemas, recipe, errors, the run folder,
model references, and the order of the stages.
"""

__version__ = "0.1.0"
