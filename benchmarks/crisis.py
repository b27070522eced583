"""What the crisis gate finds and what it takes for a crisis, with the sentence encoder and without, in one run.

`make bench-crisis`. Recall by kind and false alarms on two test sets of benchmarks/data, by different writers, each and
together, with 95 % intervals (Wilson 1927), and the time of a message. Texts are never printed: whoever has read a test
case tunes to it.
"""

import argparse
import contextlib
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from core.encoder import find_encoder
from core.errors import EnvironmentLacks
from core.routing.crisis import KINDS, Crisis, find_crisis
from core.routing.crisis_model import WORDED, CrisisVectors, adapter_of, load_model
from core.routing.crisis_wording import CrisisWording
from core.routing.emotion_data import held_out, read_rows
from core.routing.message_reader import MessageReader
from core.routing.typos import Speller
from core.routing.words import normalise
from core.routing.written import Written
from core.training.crisis_talk import tidied

DATA = Path(__file__).with_name("data")
LINES = 1000  # of the emotion data
LEAST_RECALL = 0.95
SHARE = 0.02  # of the harmless cases, at which recall is wanted


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


class Gate:
    """The gate as messages meet it: read with the spelling put right, and under the adapter where there is doubt."""

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._speller = Speller(set())
        self.fits = adapter_of(find_encoder()) is not None
        self.asked = 0

    def vectors(self, text: str) -> CrisisVectors:
        """The vectors of a text that `words.normalise` has been through, each time anew."""
        read = self._reader.read(Written(text, self._speller))
        if read is None or read.crisis is None:
            raise EnvironmentLacks(self._reader.note or "the encoder is not the shipped one")
        self._reader.forget(text)
        self.asked += read.crisis[1] is not None
        return read.crisis

    def close(self) -> None:
        """End the encoder."""
        self._reader.close()


def level(text: str, vectors: CrisisVectors) -> float:
    """The highest threshold at which a text would be taken for a crisis: above 1 where that does not hang on it, 0
    where it is none at any."""
    wording = CrisisWording(text)
    if vectors[1] is None:
        return 2.0 if wording.certain is not None else 0.0
    probability, _ = load_model().probability(wording, vectors)
    worded = wording.worded is not None and probability >= WORDED
    return 2.0 if wording.certain is not None or worded else probability


def at_share(cases: list[dict[str, Any]], levels: Sequence[float], share: float) -> dict[str, Any] | None:
    """Recall at the lowest threshold, chosen on these very cases, that lets through at most a share of the harmless;
    None where no threshold does."""
    harmless = sorted((one for case, one in zip(cases, levels, strict=True) if not case["crisis"]), reverse=True)
    least = math.nextafter(harmless[int(share * len(harmless))], math.inf)
    if least > 1:
        return None
    return {
        "threshold": least,
        "recall": count(one >= least for case, one in zip(cases, levels, strict=True) if case["crisis"]),
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
    if at := result.get("at_share"):
        low, high = at["recall"]["interval"]
        label = f"recall at {SHARE:.0%} of them"
        shown.append(
            f"  {label:<22} {at['recall']['share']:6.1%}  {at['recall']['found']:>3} of {at['recall']['of']:<3}  "
            f"[{low:.1%}, {high:.1%}], by a threshold of {at['threshold']:.3f}, which is chosen here and not shipped"
        )
    if "adapter_asked" in result:
        shown.append(f"  {'adapter asked':<22} {result['adapter_asked']:6.1%}")
    shown.append(f"  {'a message':<22} {result['ms']['median']:.1f} ms, p95 {result['ms']['p95']:.1f} ms")
    return shown


def talk_of(folder: Path) -> list[dict[str, Any]]:
    """Film lines of the fifth that neither the gate nor the emotion heads were trained on, whatever is told in them: a
    few are crises."""
    lines = sorted({tidied(row.text) for row in held_out(read_rows(folder))} - {""})
    drawn = random.Random(1).sample(lines, min(LINES, len(lines)))
    return [{"text": line, "crisis": False, "kind": None, "twin": False} for line in drawn]


def report(cases: list[dict[str, Any]], gate: Gate) -> dict[str, Any]:
    """With the encoder and without on some cases."""
    model, results = load_model(), {}
    if gate.fits:
        gate.asked = 0
        results["with the encoder"] = measure(cases, lambda text: find_crisis(text, gate.vectors(text))) | {
            "threshold": model.threshold(True),
            "adapter_asked": gate.asked / len(cases),
        }
        if {case["crisis"] for case in cases} == {True, False}:
            texts = [normalise(case["text"]) for case in cases]
            levels = [level(text, gate.vectors(text)) for text in texts]
            results["with the encoder"]["at_share"] = at_share(cases, levels, SHARE)
    results["without"] = measure(cases, find_crisis) | {"threshold": model.threshold(False)}
    return results


def main() -> int:
    """Measure both gates on each set and on all, and print them; the status is 1 where the recall falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", default=[DATA / "crisis.jsonl", DATA / "crisis_second.jsonl"])
    parser.add_argument("--talk", type=Path, help="a folder of emotion data: what its lines that trained nothing raise")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = {path.name: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in options.data}
    if len(sets) > 1:
        sets["together"] = [case for cases in sets.values() for case in cases]
    talk = talk_of(options.talk) if options.talk else []
    with contextlib.closing(Gate()) as gate:
        if gate.fits:
            gate.vectors("warm")
        found = {name: report(cases, gate) for name, cases in sets.items()}
        said = report(talk, gate) if talk else {}
    if options.json:
        print(json.dumps({**found, **({"talk": said} if talk else {})}, indent=1))
        return 0
    for name, results in found.items():
        print(f"{name}: {len(sets[name])} cases, {sum(case['crisis'] for case in sets[name])} of them crises")
        for how, result in results.items():
            print("\n" + "\n".join(lines(how, result)))
        print()
    missed = 0
    if "together" in found and gate.fits:
        at = found["together"]["with the encoder"]["at_share"]
        recall = at["recall"]["share"] if at else 0.0
        missed = int(recall < LEAST_RECALL)
        state = "MISSED" if missed else "holds "
        print(f"{state} recall {recall:.3f} at {SHARE:.0%} of the harmless, at least {LEAST_RECALL}")
    for how, result in said.items():
        alarms, (low, high) = result["false_alarms"], result["false_alarms"]["interval"]
        print(f"of {len(talk)} film lines {how}: {alarms['found']} taken for crises [{low:.1%}, {high:.1%}]")
    return missed


if __name__ == "__main__":
    sys.exit(main())
