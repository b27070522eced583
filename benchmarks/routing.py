"""The router on messages it has not seen, beside semantic-router with the same encoder and beside keywords alone.

Messages are those of benchmarks/data: 17 for each of the 28 first domains, 197 that belong to none, 49 conversations.
`make bench-routing`; `--develop` runs on the development sets instead, as whoever tunes the router must.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fit_router import DEVELOP
from peer_environment import install

from core.catalog import load_catalog
from core.encoder import Encoder, find_encoder
from core.encoder.place import FLOATS_VARIABLE
from core.encoder.remembered import RememberingEncoder
from core.phases.routed import desk_of_domains
from core.routing import Decision, Desk, Router
from core.routing.rows import rows_from
from core.text import table
from core.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data"
FIVE = ("healthcare", "business", "education", "creative", "leadership")
PEER = "semantic-router==1.1.1"
GOALS = {"28": 0.80, "5": 0.92}  # top-1, counting acceptable neighbours
MOST_ECE, LEAST_AUROC, MOST_P95_MS = 0.05, 0.93, 15.0  # over the 28
MOST_WORDS_P95_MS, MOST_MB = 2.0, 150.0  # by keywords alone; of the encoder's process


@dataclass(frozen=True)
class Result:
    """What one router said: for each message the domain it puts first, the one it answers with (None: it abstains), how
    sure it is, and the milliseconds it took."""

    name: str
    best: list[str | None]
    chosen: list[str | None]
    sure: np.ndarray
    ms: np.ndarray

    def right(self, rows: Sequence[dict[str, Any]], chosen: bool = False) -> np.ndarray:
        """Whether each message's domain, or one that is as acceptable, was put first, or answered with."""
        said = self.chosen if chosen else self.best
        return np.array(
            [one in (row["domain"], *row["acceptable"]) for one, row in zip(said, rows, strict=False)], dtype=bool
        )


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a file of benchmarks/data."""
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def ours(desk: Desk | Router, name: str, texts: Sequence[str]) -> Result:
    """What the router says of each text, read anew."""
    best, chosen, sure, ms = [], [], [], []
    for text in texts:
        started = time.perf_counter()
        decision = desk.route(text)
        ms.append(1000 * (time.perf_counter() - started))
        # A crisis is decided by a rule and has no candidates: its safe domain is the answer.
        best.append(decision.candidates[0].domain if decision.candidates else decision.domain)
        chosen.append(decision.domain)
        sure.append(decision.confidence)
    return Result(name, best, chosen, np.array(sure), np.array(ms))


def peer(python: Path, name: str, routes: dict[str, list[str]], fit: list[list[Any]], texts: list[str]) -> Result:
    """What semantic-router says of each text, with vectors of the same encoder."""
    file = find_encoder()
    assert file is not None
    wanted = list(
        dict.fromkeys([*(text for said in routes.values() for text in said), *(row[0] for row in fit), *texts])
    )
    with Encoder(file) as running:
        vectors = RememberingEncoder(running).embed(wanted)
    given = {
        "vectors": {text: row.tolist() for text, row in zip(wanted, vectors, strict=True)},
        "routes": routes, "fit": fit, "messages": texts,
    }  # fmt: skip
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("semantic_router_peer.py"))],
        input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{PEER} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    best, chosen, sure = (list(column) for column in zip(*found["answers"], strict=True))
    return Result(name, best, chosen, np.array(sure), np.array(found["ms"]))


def calibration_error(sure: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error in equal bins of confidence."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    return float(
        sum(abs(sure[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place.tolist()))
    )


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve of confidence: how often a message inside has more of it than one outside."""
    return float((inside[:, None] > outside[None]).mean() + 0.5 * (inside[:, None] == outside[None]).mean())


def measured(result: Result, inside: list[dict[str, Any]], outside: list[dict[str, Any]]) -> dict[str, float | None]:
    """A result's figures, by the names of the table's columns; None for those of messages outside without any."""
    n = len(inside)
    right, answered = result.right(inside), result.right(inside, chosen=True)
    abstained = np.array([one is None for one in result.chosen])
    near = np.array([row["kind"] == "near_miss" for row in outside], dtype=bool)
    return {
        "top-1": float(right.mean()),
        "exact": float(np.mean([b == row["domain"] for b, row in zip(result.best, inside, strict=False)])),
        "answered right": float(answered.mean()),
        "answered": float(1 - abstained[:n].mean()),
        "ECE": calibration_error(result.sure[:n], right),
        "outside AUROC": area(result.sure[:n], result.sure[n:]) if outside else None,
        "outside abstained": float(abstained[n:].mean()) if outside else None,
        "near misses": float(abstained[n:][near].mean()) if near.any() else None,
        "p50 ms": float(np.percentile(result.ms, 50)),
        "p95 ms": float(np.percentile(result.ms, 95)),
    }


def row_of(name: str, found: dict[str, float | None]) -> list[str]:
    """A row of the table."""
    return [name, *("" if v is None else f"{v:.1f}" if key.endswith("ms") else f"{v:.3f}" for key, v in found.items())]


def goals(count: str, found: Sequence[dict[str, float | None]]) -> list[tuple[str, bool]]:
    """What is owed of the first result, and whether it holds; the second is by keywords alone, others are peers."""
    mine, peers = found[0], found[2:]

    def at_least(name: str, least: float) -> tuple[str, bool]:
        value = mine[name]
        assert value is not None
        return f"{name} {value:.3f}, at least {least:.3f}", value >= least

    def at_most(name: str, most: float) -> tuple[str, bool]:
        value = mine[name]
        assert value is not None
        return f"{name} {value:.3f}, at most {most:g}", value <= most

    owed = [at_least("top-1", GOALS[count])]
    if count == "28":
        owed += [at_most("ECE", MOST_ECE), at_least("outside AUROC", LEAST_AUROC), at_most("p95 ms", MOST_P95_MS)]
        words = found[1]["p95 ms"] or 0.0
        owed.append(
            (f"by keywords alone: p95 ms {words:.1f}, at most {MOST_WORDS_P95_MS:g}", words <= MOST_WORDS_P95_MS)
        )
    for name in ("top-1", "outside AUROC", "outside abstained") if count == "28" else ("top-1",):
        theirs = [one[name] for one in peers if one[name] is not None]
        if theirs:
            said, _ = at_least(name, max(theirs))
            owed.append((f"ahead of semantic-router: {said}", (mine[name] or 0.0) > max(theirs)))
    return owed


def conversations(desk: Desk, rows: list[dict[str, Any]]) -> str:
    """Turns of conversations: right with and without the message before."""
    right = {True: 0, False: 0}
    later = changed = kept_changes = total = 0
    for row in rows:
        before: tuple[str, Decision] | None = None
        for at, turn in enumerate(row["turns"]):
            told: dict[str, Any] = {}
            if before is not None:
                told = {"previous": before[0], "crisis_before": before[1].crisis}
            with_before = desk.route(turn["text"], before[1].domain if before is not None else None, **told)
            alone = desk.route(turn["text"])
            for known, decision in ((True, with_before), (False, alone)):
                right[known] += decision.domain == turn["domain"]
            total += 1
            if at:
                later += 1
                if turn["domain"] != row["turns"][at - 1]["domain"]:
                    changed += 1
                    kept_changes += with_before.domain == turn["domain"]
            before = (turn["text"], with_before)
    return (
        f"{len(rows)} conversations, {total} turns: answered right {right[True] / total:.3f} with the message before,"
        f" {right[False] / total:.3f} without; {kept_changes} of {changed} changes of topic followed"
    )


def by_kind(result: Result, rows: list[dict[str, Any]]) -> str:
    """Top-1 by the kind of message."""
    right = result.right(rows)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return ", ".join(f"{k} {right[[row['kind'] == k for row in rows]].mean():.2f}" for k in kinds)


def main() -> int:
    """Run all, print tables and what is owed; the status is 1 where that does not hold on the test sets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--develop", action="store_true", help="the development sets instead of the test sets")
    parser.add_argument("--no-peer", action="store_true", help="without semantic-router")
    arguments = parser.parse_args()
    workspace = Workspace(ROOT)
    catalog = load_catalog(workspace)
    develop = [row for path in DEVELOP for row in rows_of(path.name)]  # what the router's blend is fitted to
    if arguments.develop:
        inside, outside = [row for row in develop if row["domain"]], [row for row in develop if not row["domain"]]
    else:
        inside, outside = rows_of("routing.jsonl"), rows_of("routing_outside.jsonl")
    python, lacks = (Path(), "not wanted") if arguments.no_peer else install(PEER, "python")
    first = [name for name, domain in catalog.domains.items() if domain.phase is not None]
    missed = 0
    for count, names in (("28", first), ("5", list(FIVE))):
        mine = [row for row in inside if row["domain"] in names]
        beyond = outside if count == "28" else []
        texts = [row["text"] for row in [*mine, *beyond]]
        results = []
        with desk_of_domains(workspace, ",".join(names)) as desk:
            desk.start()
            results.append(ours(desk, f"TARA ({desk.method})", texts))
            held = psutil.Process(desk.encoder_pid).memory_info().rss if desk.encoder_pid is not None else 0
            data = desk.data
            talks = f"routing_conversations{'_develop' if arguments.develop else ''}.jsonl"
            talk = conversations(desk, rows_of(talks)) if count == "28" else ""
        words = Router.from_data(data)  # asked without vectors
        results.append(ours(words, "TARA (keywords alone)", texts))
        if not lacks:
            rows = rows_from(data)
            said = {name: list(rows.domains[name].said) for name in names}
            all_texts = {name: [*said[name], rows.domains[name].about, *rows.domains[name].topics] for name in names}
            fit = [[row["text"], row["domain"] if row["domain"] in names else None] for row in develop]
            if count == "5":
                fit = [row for row in fit if row[1] is not None]
            spell = words.readable
            results.append(peer(python, f"{PEER}, same prompts", said, fit, texts))
            results.append(peer(python, "… and descriptions, keywords", all_texts, fit, texts))
            results.append(
                peer(
                    python,
                    "… and spelling put right",
                    all_texts,
                    [[spell(t), d] for t, d in fit],
                    list(map(spell, texts)),
                )
            )
        os.environ[FLOATS_VARIABLE] = "1"
        with desk_of_domains(workspace, ",".join(names)) as desk:
            desk.start()
            results.append(ours(desk, "TARA (encoder in floats, llama.cpp)", texts))
        del os.environ[FLOATS_VARIABLE]
        print(f"\n{count} domains: {len(mine)} messages inside, {len(beyond)} outside")
        found = [measured(one, mine, beyond) for one in results]
        rows_shown = [row_of(one.name, each) for one, each in zip(results, found, strict=True)]
        print(table(("router", *found[0]), rows_shown, right=range(1, len(found[0]) + 1)))
        for said, holds in goals(count, found[:-1]):
            print(f"{'holds ' if holds else 'MISSED'} {said}")
            missed += not holds
        print(f"top-1 by kind, {results[0].name}: {by_kind(results[0], mine)}")
        if held:
            fits = held / 1e6 <= MOST_MB
            print(f"{'holds ' if fits else 'MISSED'} the encoder's process: {held / 1e6:.0f} MB, at most {MOST_MB:g}")
            missed += not fits
        if talk:
            print(talk)
    if lacks and not arguments.no_peer:
        print(lacks)
    print(
        "\ntop-1: the domain put first is right or as acceptable (exact: the one right domain); answered right: it is"
        " also answered with, not abstained from; ECE of top-1 over 10 bins of confidence. semantic-router's ms are"
        " without the encoder's, whose vectors it is given; its calibrator and threshold are fitted to the development"
        " sets."
    )
    return int(missed > 0 and not arguments.develop)


if __name__ == "__main__":
    sys.exit(main())
