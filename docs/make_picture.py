"""Draw the README's picture from a finished run.

Run: python docs/make_picture.py runs/demo docs/demo.svg
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from stillhouse.display import Display
from stillhouse.job import funnel_of, samples_of
from stillhouse.store import RunFolder

run, picture = RunFolder(Path(sys.argv[1])), Path(sys.argv[2])
console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
Display(console).summary(funnel_of(run), run.manifest(), samples_of(run))
drawn = console.export_svg(title="stillhouse run recipes/demo.yaml")
# Rich names fonts on somebody else's server; a picture asks nobody.
picture.write_text(re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL), encoding="utf-8")
