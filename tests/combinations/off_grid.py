"""`python -m tests.combinations.off_grid FOLDER`: the embedded base, and the same function in weights off its grid."""

import sys
from pathlib import Path

from benchmarks.hybrid_models import off_the_grid
from core.training.base import BaseSource, materialise
from core.workspace import Workspace

folder = Path(sys.argv[1])
base = folder / "embedded"
materialise(BaseSource("starter-135M", "embedded"), Workspace(folder), base)
off_the_grid(base, folder / "off-grid", seed=1)
