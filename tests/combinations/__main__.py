"""Build every quantization with every technique and look at what came of it: `python -m tests.combinations`.

From the command line and from the console, each in a workspace of its own. Ends with status 1 at the first that fails,
with the others' figures printed so far.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from core.text import table
from core.workspace import Workspace
from tests.combinations.box import make, make_base
from tests.combinations.checks import NUMBERS, check
from tests.combinations.targets import build_recommended
from tests.combinations.ways import ByCommand, ByConsole
from tests.conftest import end_everything

TECHNIQUES = ("standard", "hybrid", "sparse", "distilled")
WAYS = {"command": ByCommand, "console": ByConsole}


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by", choices=[*WAYS, "both"], default="both")
    parser.add_argument("--steps", type=int, default=12, help="steps that the domain is trained for")
    parser.add_argument("--folder", type=Path, help="where the workspaces are made; they stay")
    asked = parser.parse_args()
    for name in WAYS if asked.by == "both" else [asked.by]:
        with tempfile.TemporaryDirectory(prefix="tara-combinations-") as scratch:
            folder = asked.folder or Path(scratch)
            all_of(name, make(folder / name, make_base(folder / f"base-{name}"), asked.steps))
    return 0


def all_of(way: str, workspace: Workspace) -> None:
    """Build the 16 in one workspace, and print a line of figures for each; from the command line also what is
    recommended for some sizes, before any of it is there."""
    rows: list[list[str]] = []
    try:
        with WAYS[way](workspace) as by:
            if way == "command":
                heads = ("target MB", "recommended", "predicted", "by", "built", "error")
                print(table(heads, build_recommended(workspace), right=(0, 2, 4, 5)), flush=True)
            for technique in TECHNIQUES:
                for quantization in NUMBERS:
                    started = time.monotonic()
                    by.build(quantization, technique)
                    built = time.monotonic() - started
                    found = check(workspace, quantization, technique)
                    figures = found["figures"]
                    rows.append(
                        [
                            quantization, technique, found["kept"], f"{found['bytes'] / 1e6:.1f}", found["blocks"],
                            " ".join(f"{count} {name}" for name, count in sorted(found["types"].items())),
                            f"{figures['kl_mean']:.3f}", f"{figures['held_out_loss']:.3f}",
                            f"{figures['generation_tokens_per_s']:.0f}", f"{built:.0f}",
                        ]
                    )  # fmt: skip
                    print(f"{way}: {quantization} {technique} in {built:.0f} s: {found['says'][:90]!r}", flush=True)
    finally:
        end_everything(workspace)
        heads = ("type", "technique", "kept", "MB", "blocks", "tensors", "KL", "loss", "tokens/s", "built in s")
        print(f"\nby {way}\n{table(heads, rows, right=(3, 4, 6, 7, 8, 9))}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
