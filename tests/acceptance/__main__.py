"""`python -m tests.acceptance`: phase 1 to a GGUF, routing, emotions, compression, release, held against what is owed.

By commands in a workspace of its own, as a person would; what they left is read with the public gguf package, the
engine's own class and plain hashes. Prints what it saw of each step; status 1 where one does not hold.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.routing.heads import PRESENT
from core.text import span, table
from core.workspace import Workspace
from tests.acceptance.messages import (
    FELT,
    FELT_AT_LEAST,
    NEUTRAL,
    NEUTRAL_AT_LEAST,
    ROUTED,
    ROUTED_AT_LEAST,
)
from tests.combinations.checks import NUMBERS, header_of, said
from tests.combinations.ways import tara
from tests.conftest import end_everything, new_workspace

PHASE = "1"
SMALLER = "Q2_K"


class Acceptance:
    """The steps, each with what it saw in a line. They follow on each other."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.release = workspace.root / "releases" / f"phase-{PHASE}"

    def build(self) -> str:
        """Phase 1 from nothing to a released GGUF that answers for each domain."""
        told = self._tara("quickstart")
        for row in told["domains"]:
            assert row["tuned_loss"] < row["base_loss"], f"{row['domain']} is no better than its base"
        right = sum(bool(one["answer"].strip()) for one in told["answers"])
        assert right == len(told["domains"]), f"{right} answers of {len(told['domains'])} domains"
        header = header_of(self._base())
        manifest = self._manifest()
        (base,) = manifest["bases"].values()
        assert header["general.file_type"] == NUMBERS[base["file_type"]], f"the header says {header}"
        assert dict(header["types"]) == base["types"], "the manifest has other tensors than the file"
        losses = ", ".join(
            f"{row['domain']} {row['base_loss']:.2f} > {row['tuned_loss']:.2f}" for row in told["domains"]
        )
        return f"{base['file_type']}, {self._base().stat().st_size / 1e6:.1f} MB; held-out loss {losses}"

    def routing(self) -> str:
        """Messages go to their domains; what the system before got wrong is right."""
        found = self._batch([text for text, _ in ROUTED])
        right = [one["domain"] == domain for one, (_, domain) in zip(found, ROUTED, strict=True)]
        assert found[0]["crisis"], "a medical emergency is no crisis"
        assert not any(one["crisis"] for one in found[1:]), "an everyday message is a crisis"
        assert all(right[:5]), "what was misrouted once is misrouted again"
        assert sum(right) >= ROUTED_AT_LEAST, f"{sum(right)} of {len(right)} are right"
        return f"{sum(right)} of {len(right)} messages right"

    def emotion(self) -> str:
        """The emotion of a message is among those read as there, and none is in a plain one."""
        found = self._batch([text for _, text in FELT])
        right = sum(one["emotions"][name] >= PRESENT for one, (name, _) in zip(found, FELT, strict=True))
        plain = sum(max(one["emotions"].values()) < PRESENT for one in self._batch(list(NEUTRAL)))
        assert right >= FELT_AT_LEAST, f"{right} of {len(FELT)} emotions are seen"
        assert plain >= NEUTRAL_AT_LEAST, f"{plain} of {len(NEUTRAL)} plain messages are plain"
        return f"{right} of {len(FELT)} emotions seen, {plain} of {len(NEUTRAL)} plain messages plain"

    def compression(self) -> str:
        """A smaller type makes a smaller file, which says so itself, loses a measured little, and still answers."""
        before, released = self._measured(), self._base().stat().st_size
        self._tara("build-phase", PHASE, "--quantization", SMALLER)
        after = self._measured()
        bundle = self.workspace.absolute(self._tara("show-phase", PHASE)["bundle"])
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
        (base,) = manifest["bases"].values()
        file = bundle / base["file"]
        header, size = header_of(file), file.stat().st_size
        assert header["general.file_type"] == NUMBERS[SMALLER], f"the header says {header}"
        assert size == base["bytes"] < released, f"{size} bytes after {released}"
        assert 0 < before < after, f"divergence from F16 went from {before} to {after}"
        for name, domain in manifest["domains"].items():
            text = said(file, bundle / domain["adapter"], domain["system_prompt"], domain["example_question"])
            assert text.strip(), f"{name} says nothing"
        answered = len(manifest["domains"])
        return f"{SMALLER} {size / 1e6:.1f} MB, KL divergence from F16 {before:.4f} > {after:.4f}; {answered} answer"

    def deployment(self) -> str:
        """The new build becomes a version beside the first; each file is what the manifest says; back and forth."""
        first = self._manifest()
        self._tara("deploy-phase", PHASE)
        second = self._manifest()
        assert first != second, "nothing new is current"
        files = 0
        for entry in [*second["bases"].values(), *second["domains"].values(), second["routing"]]:
            path = self.release / "current" / (entry.get("adapter") or entry["file"])
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], f"{path.name} is another file"
            files += 1
        assert self._answer().strip(), "the release says nothing"
        self._tara("rollback", PHASE)
        assert self._manifest() == first, "the version before is not what it was"
        assert self._answer().strip(), "the version before says nothing"
        return f"{files} files as the manifest has them; rolled back to the first, which answers"

    def _tara(self, *words: str) -> Any:
        return json.loads(tara(self.workspace, *words, "--json"))

    def _manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.release / "current" / "manifest.json").read_text("utf-8"))
        return found

    def _base(self) -> Path:
        (base,) = self._manifest()["bases"].values()
        return self.release / "current" / base["file"]

    def _batch(self, texts: list[str]) -> list[dict[str, Any]]:
        file = self.workspace.root / "batch.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        return [json.loads(line) for line in tara(self.workspace, "route", "--batch", str(file), "--json").splitlines()]

    def _measured(self) -> float:
        """Mean KL divergence of the built file from its F16 parent, in nats a token."""
        figures = self._tara("measure", f"phase:{PHASE}", "--max-tokens", "200")["artifacts"][0]["figures"]
        return float(next(iter(figures["kl_mean"].values()))["value"])

    def _answer(self) -> str:
        question = "How do I ask a customer to pay an old invoice?"
        words = ("chat", "--release", str(self.release / "current"), "--once", question)
        return str(self._tara(*words)["answer"])


def accept(workspace: Workspace) -> bool:
    """Go through the steps, the first that does not hold ends it; whether all held."""
    steps = Acceptance(workspace)
    each: list[Callable[[], str]] = [steps.build, steps.routing, steps.emotion, steps.compression, steps.deployment]
    rows: list[list[str]] = []
    for step in each:
        began = time.monotonic()
        try:
            verdict, saw = "holds", step()
        except (AssertionError, subprocess.SubprocessError) as error:  # what does not hold, or a command that fails
            verdict, saw = "FAILS", str(error)
        rows.append([step.__name__, verdict, span(time.monotonic() - began), saw])
        print(f"{rows[-1][0]}: {verdict} ({rows[-1][2]})", file=sys.stderr, flush=True)
        if verdict != "holds":
            break
    print(table(("step", "", "time", "seen"), rows))
    return len(rows) == len(each) and all(row[1] == "holds" for row in rows)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the workspace is made; it stays")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tara-acceptance-") as scratch:
        workspace = new_workspace((asked.folder or Path(scratch)) / "workspace")
        try:
            return 0 if accept(workspace) else 1
        finally:
            end_everything(workspace)


if __name__ == "__main__":
    sys.exit(main())
