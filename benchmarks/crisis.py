"""What the crisis gate finds and what it takes for a crisis, with the sentence encoder and without, in one run.

`make bench-crisis`. Recall by kind and false alarms on benchmarks/data/crisis.jsonl, with 95 % intervals (Wilson 1927),
and the time of a message. Texts are never printed: whoever has read a test case tunes to it.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.encoder import Encoder, find_encoder
from core.routing.crisis import KINDS, Crisis, find_crisis
from core.routing.crisis_model import adapter_of, load_model
from core.routing.words import normalise

DATA = Path(__file__).with_name("data")


def wilson(found: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share at 95 %."""
    if of == 0:
        return 0.0, 1.0
    share = found / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def count(alarms: Iterable[bool]) -> dict[str, Any]:
    """How many of some cases were found, as numbers, share and interval."""
    all_of = list(alarms)
    low, high = wilson(sum(all_of), len(all_of))
    share = sum(all_of) / len(all_of) if all_of else math.nan
    return {"found": sum(all_of), "of": len(all_of), "share": share, "interval": [low, high]}


def measure(cases: list[dict[str, Any]], gate: Callable[[str], Crisis | None]) -> dict[str, Any]:
    """Recall, false alarms and milliseconds of a gate on cases."""
    found: list[Crisis | None] = []
    times: list[float] = []
    for case in cases:
        started = time.perf_counter()
        found.append(gate(normalise(case["text"])))
        times.append(1000 * (time.perf_counter() - started))
    both = list(zip(cases, found, strict=True))
    real = [(case, crisis) for case, crisis in both if case["crisis"]]
    harmless = [(case, crisis) for case, crisis in both if not case["crisis"]]
    ranked = sorted(times)
    return {
        "recall": count(crisis is not None for _, crisis in real),
        "recall_by_kind": {
            kind: count(crisis is not None for case, crisis in real if case["kind"] == kind) for kind in KINDS
        },
        "kind_named_right": count(crisis.kind == case["kind"] for case, crisis in real if crisis is not None),
        "false_alarms": count(crisis is not None for _, crisis in harmless),
        "false_alarms_twins": count(crisis is not None for case, crisis in harmless if case["twin"]),
        "false_alarms_ordinary": count(crisis is not None for case, crisis in harmless if not case["twin"]),
        "ms": {"median": statistics.median(times), "p95": ranked[math.ceil(0.95 * len(ranked)) - 1]},
    }


def lines(name: str, result: dict[str, Any]) -> list[str]:
    """A result as a table."""
    shown = [f"{name} (threshold {result['threshold']:.3f})"]
    rows = {
        "recall": result["recall"],
        **{f"  {kind}": one for kind, one in result["recall_by_kind"].items()},
        "kind named right": result["kind_named_right"],
        "false alarms": result["false_alarms"],
        "  twins": result["false_alarms_twins"],
        "  ordinary": result["false_alarms_ordinary"],
    }
    for label, one in rows.items():
        low, high = one["interval"]
        shown.append(f"  {label:<22} {one['share']:6.1%}  {one['found']:>3} of {one['of']:<3}  [{low:.1%}, {high:.1%}]")
    shown.append(f"  {'a message':<22} {result['ms']['median']:.1f} ms, p95 {result['ms']['p95']:.1f} ms")
    return shown


def main() -> None:
    """Measure both gates and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "crisis.jsonl")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = [json.loads(line) for line in options.data.read_text("utf-8").splitlines()]
    model = load_model()
    results = {}
    file = find_encoder()
    adapter = adapter_of(file)
    if file is not None and adapter is not None:
        with Encoder(file) as encoder:
            encoder.embed_adapted(["warm"], [None, adapter])
            # Both vectors, as the router asks for them.
            results["with the encoder"] = measure(
                cases, lambda text: find_crisis(text, encoder.embed_adapted([text], [None, adapter])[0, 1])
            ) | {"threshold": model.threshold(True)}
    results["without"] = measure(cases, find_crisis) | {"threshold": model.threshold(False)}
    if options.json:
        print(json.dumps(results, indent=1))
        return
    print(f"{options.data.name}: {len(cases)} cases, {sum(case['crisis'] for case in cases)} of them crises")
    for name, result in results.items():
        print("\n" + "\n".join(lines(name, result)))


if __name__ == "__main__":
    main()
