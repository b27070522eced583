"""What a type per tensor gains over plain types of the same size, on text that calibrated nothing.

Three models: the embedded base off the grid of the file it came in; and two of its shape that know nothing, random
weights with the spreads that the base's have, and weights as the library initialises them. Two sizes: those of
Q4_K_M and Q2_K with the importance matrix. Three files each: the plain one, the mixture solved by measured cost, which
is what TARA builds, and the one solved by the importance-weighted error alone (the method of ggml-org/llama.cpp#15550).
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hybrid_models import initialised, off_the_grid, random_weights
from core.gguf.candidates import Errors, errors_of
from core.gguf.divergence import Kept
from core.gguf.imatrix import ImportanceMatrix, read_imatrix
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.mixture import build, matrices_of, solve_file, types_of
from core.gguf.paired import paired
from core.gguf.quantizer import quantize
from core.gguf.scoring import Text
from core.gguf.sensitivity import costs_of, divergence_at, groups_of, scored_texts, weighted
from core.gguf.weights import Weights
from core.tasks import base, convert, imatrix
from core.tasks.context import Context
from core.tasks.held_out import WINDOW, calibration_texts, held_out_texts
from core.training.base import load_tokenizer

DATA = Path("configs/starter_data")
PROMPT = "You are a helpful assistant."
CONTROLS = {"random": random_weights, "initialised": initialised}
WANTED = {"Q4_K_M": 0.15, "Q2_K": 0.25}  # of the plain type's divergence: how much less the off-grid model's is to be


class Bench:
    """A folder, the shares of the starter data, and how many threads and positions there are."""

    def __init__(self, folder: Path, *, threads: int, seed: int, positions: int) -> None:
        self.folder, self.threads, self.seed, self.positions = folder, threads, seed, positions
        self.data = {path.stem: str(path.absolute()) for path in sorted(DATA.glob("*.jsonl"))}
        shaping = {"system_prompt": PROMPT, "seed": seed, "held_out_fraction": 0.2}
        self.domains = dict.fromkeys(self.data, shaping)
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the seconds so far."""
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)

    def job(self, task: Any, name: str, out: Path, params: dict[str, Any], inputs: dict[str, Any]) -> Path:
        """Run a task as its worker does, in this process."""
        run = self.folder / "runs" / name
        run.mkdir(parents=True)
        spec = {"job_id": 1, "kind": name, "attempt": 1, "key": "0" * 64, "workspace": str(self.folder), "title": name}
        spec |= {"params": params, "inputs": inputs, "out": str(out), "threads": self.threads}
        (run / "spec.json").write_text(json.dumps(spec, default=str))
        task.run(Context(run))
        return out

    def model(self, name: str, folder: Path) -> dict[str, Any]:
        """All figures of one model, a folder."""
        made = self.folder / name
        made.mkdir()
        source = self.job(convert, f"{name}-convert", made / "F16.gguf", {"name": name}, {"model": folder})
        params = {"name": name, "tokens": 2048, "sequence_length": WINDOW, "domains": self.domains}
        inputs = {"base": folder, "gguf": source, "data": self.data}
        matrix = read_imatrix(self.job(imatrix, f"{name}-imatrix", made / "imatrix.gguf", params, inputs))
        tokenizer = load_tokenizer(folder)
        calibration = calibration_texts(tokenizer, self.data, self.domains, WINDOW)
        held_out = held_out_texts(tokenizer, self.data, self.domains, length=WINDOW, most=self.positions)
        texts = [text for found in held_out.values() for text in found]
        plain: dict[str, GgufInfo] = {}
        for quantization in WANTED:
            path = made / f"{quantization}.gguf"
            quantize(source, path, quantization, threads=self.threads, imatrix=matrix)
            plain[quantization] = inspect_gguf(path)
        tensors = matrices_of(inspect_gguf(source), types_of(plain["Q4_K_M"]))
        self.say(f"{name}: rounding {len(tensors)} tensors to every type they can have")
        errors = errors_of(Weights(source), tensors, matrix, threads=self.threads)
        groups = groups_of(tensors)
        self.say(f"{name}: cost of {len(groups)} groups on {sum(text.positions for text in calibration)} positions")
        costs = costs_of(
            source, made / "scratch.gguf", groups, errors, matrix, calibration, threads=self.threads, seed=self.seed
        )
        self.say(f"{name}: {sum(text.positions for text in texts)} held-out positions")
        reference = scored_texts(source, texts, threads=self.threads, seed=self.seed)
        ways = {"measured cost": weighted(errors, costs), "error alone": errors}
        return {
            quantization: self.size(source, matrix, info, quantization, ways, texts, reference)
            for quantization, info in plain.items()
        }

    def size(
        self,
        source: Path,
        matrix: ImportanceMatrix,
        plain: GgufInfo,
        quantization: str,
        ways: dict[str, Errors],
        texts: Sequence[Text],
        reference: Sequence[Kept],
    ) -> dict[str, Any]:
        """The plain file and the mixtures of its size."""
        tensors = matrices_of(inspect_gguf(source), types_of(plain))
        blocks = [number for number, kept in enumerate(reference) for _ in range(len(kept))]
        before = np.concatenate(divergence_at(plain.path, texts, reference, threads=self.threads))
        found: dict[str, Any] = {"plain": {"bytes": plain.bytes, "kl": float(before.mean()), "types": plain.types}}
        for way, errors in ways.items():
            solved = solve_file(plain, tensors, errors, plain.bytes)
            path = plain.path.with_name("mixture.gguf")
            made = build(source, path, solved, quantization, matrix, threads=self.threads)
            after = np.concatenate(divergence_at(path, texts, reference, threads=self.threads))
            verdict = paired(after, before, blocks)
            found[way] = {
                "bytes": made.bytes, "predicted_bytes": solved.bytes, "kl": verdict.candidate.mean, "types": made.types,
                "difference": verdict.difference.mean, "difference_se": verdict.difference.se,
                "change": verdict.candidate.mean / verdict.plain.mean - 1, "kept": verdict.better,
            }  # fmt: skip
            path.unlink()
        self.say(f"{plain.path.parent.name}, {quantization}: {found['measured cost']['change']:+.1%}")
        return found


def table(models: dict[str, Any]) -> str:
    """A line a file."""
    lines = [f"{'model':<11} {'size of':<7} {'file':<14} {'MB':>7} {'predicted':>9} {'mean KL':>9} {'change':>8}  kept"]
    for model, sizes in models.items():
        for quantization, files in sizes.items():
            for way, one in files.items():
                predicted = f"{one['predicted_bytes'] / 1e6:9.2f}" if "predicted_bytes" in one else f"{'':>9}"
                change = f"{one['change']:+8.1%}" if "change" in one else f"{'':>8}"
                kept = {True: "yes", False: "no"}.get(one.get("kept"), "")  # type: ignore[arg-type]
                lines.append(
                    f"{model:<11} {quantization:<7} {way:<14} {one['bytes'] / 1e6:7.2f} {predicted} {one['kl']:9.5f} "
                    f"{change}  {kept}"
                )
    return "\n".join(lines)


def judge(models: dict[str, Any]) -> list[str]:
    """What was promised and did not come."""
    missed = []
    for quantization, wanted in WANTED.items():
        change = models["off-grid"][quantization]["measured cost"]["change"]
        if change > -wanted:
            missed.append(f"off-grid, {quantization}: {change:+.1%}, at least {wanted:.0%} less was wanted")
        for name in CONTROLS:
            control = models[name][quantization]["measured cost"]
            if control["kept"]:
                missed.append(f"{name}, {quantization}: {control['change']:+.1%}, no better was wanted")
    for model, sizes in models.items():
        for quantization, files in sizes.items():
            for way, one in files.items():
                predicted = one.get("predicted_bytes", one["bytes"])
                if abs(predicted - one["bytes"]) > 0.01 * one["bytes"] or one["bytes"] > files["plain"]["bytes"]:
                    missed.append(f"{model}, {quantization}, {way}: {one['bytes']} bytes, {predicted} predicted")
    return missed


def main() -> int:
    """Make the models, measure, print the table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--positions", type=int, default=400, help="held-out positions a domain (default: 400)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="tara-hybrid-", dir=options.folder))
    bench = Bench(scratch, threads=options.threads, seed=options.seed, positions=options.positions)
    models: dict[str, Any] = {}
    try:
        embedded = bench.job(base, "base", scratch / "base", {"base": {"name": "embedded", "kind": "embedded"}}, {})
        turned = off_the_grid(embedded, scratch / "turned", options.seed)
        bench.say(f"off the grid: logits moved by {turned:.1e} of their spread")
        models["off-grid"] = bench.model("off-grid", scratch / "turned")
        for name, make in CONTROLS.items():
            make(embedded, scratch / f"{name}-model", options.seed)
            models[name] = bench.model(name, scratch / f"{name}-model")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    missed = judge(models)
    print(f"\n{table(models)}\nmissed: {'; '.join(missed) or 'nothing'}")
    machine = {"threads": options.threads, "python": platform.python_version()}
    result = {"models": models, "logits_moved": turned, "positions_a_domain": options.positions, "seed": options.seed}
    print("RESULT " + json.dumps({**result, "machine": machine, "missed": missed}, sort_keys=True))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
