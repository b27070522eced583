"""Makes core/routing/blend.json: the weights with which the router blends its signs.

Rows are, each left out in turn, the shipped examples and starter prompts of the 28 first domains and of all domains,
and the texts of no domain; and two development sets (routing_develop.jsonl and routing_develop_second.jsonl of
benchmarks/data). The two curves that make log-odds probabilities are fitted to messages of other writers, to which
nothing else was fitted (routing_develop_calibrate.jsonl): by messages that the weights know, confidences would be too
high for anybody else's. Figures are shown cross-validated. The test sets are not read.
Usage: PYTHONPATH=. python benchmarks/fit_router.py [--write]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.catalog import load_catalog
from core.encoder import Encoder, find_encoder
from core.encoder.remembered import RememberingEncoder
from core.routing.blend import FILE, NONE_SIGNS, SIGNS, Blend
from core.routing.content import ContentModel
from core.routing.fit_blend import Cases, accepting, case_of, fit, left_out_cases, odds_of, with_curves
from core.routing.likeness import LikenessModel
from core.routing.router import Router
from core.routing.rows import rows_from
from core.routing.sets import routing_set
from core.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
DEVELOP = tuple(ROOT / "benchmarks" / "data" / f"routing_develop{name}.jsonl" for name in ("", "_second"))
CALIBRATE = ROOT / "benchmarks" / "data" / "routing_develop_calibrate.jsonl"
SHARE_28, SHARE_ALL, SHARE_OUTSIDE = 0.3, 0.1, 0.6  # weight of a left-out row beside one of the development set
SMALLER = (7, 5)  # sizes of random sets of the first domains in which the development messages are looked at as well
SHARE_SMALLER = 0.2  # weight of a message there: it is the same message in each set
SHARE_ELSEWHERE = 0.2  # of that, for messages of domains that are not in the set: there are many more of them
OUTSIDE_EXPECTED = 0.05  # share of messages that belong to no domain, for the calibration of confidence
HELD = 2.0  # rows that the straight curve counts for, with which the fit begins: few beside thousands
FOLDS = 5
ALL = slice(None)
START = Blend(
    dict.fromkeys(SIGNS, 0.0), dict.fromkeys(NONE_SIGNS, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0), "", "", 0, None
)


class Set:
    """A set of domains with its vectors."""

    def __init__(self, names: list[str], workspace: Workspace, encoder: RememberingEncoder) -> None:
        self.data = routing_set(workspace, load_catalog(workspace), names).build()
        self.rows = rows_from(self.data)
        self.model = LikenessModel(self.rows, encoder.embed(self.rows.texts()))
        self.words = ContentModel.from_data(self.data)
        self.habits = {name: entry["habits"] for name, entry in self.data["domains"].items()}
        self.router = Router.from_data(self.data)
        self.encoder = encoder

    def left_out(self) -> Cases:
        """Its own rows, each as if it were not known."""
        said = {name: self.rows.domains[name].said for name in self.rows.names}
        return left_out_cases(self.model, said, [text for _, text in self.rows.outside], self.words, self.habits)

    def seen(self, messages: list[dict[str, Any]]) -> "Seen":
        """Messages with their right domain, None for none, and those that are as acceptable."""
        texts = [self.router.readable(row["text"]) for row in messages]
        vectors = self.encoder.embed(texts)
        signs = [
            case_of(self.model.compare(vector), self.model.names, text, self.words, self.habits)
            for vector, text in zip(vectors, texts, strict=True)
        ]
        names = self.model.names
        right = [names.index(row["domain"]) if row["domain"] in names else len(names) for row in messages]
        acceptable = np.array([[name in row["acceptable"] for name in names] for row in messages])
        return Seen(Cases(np.stack(signs), np.array(right), np.ones(len(right))), acceptable)


@dataclass(frozen=True)
class Seen:
    """Messages as a set of domains sees them, and the domains of it that are as acceptable, [n, domains]."""

    cases: Cases
    acceptable: Any

    def under(self, blend: Blend) -> Cases:
        """With the domain that the blend puts first as the right one where it is acceptable."""
        return accepting(blend, self.cases, self.acceptable)


def inside(cases: Cases) -> Any:
    """Which cases belong to a domain."""
    return cases.right < cases.signs.shape[1] - 1


def weighed(cases: Cases, own: float, others: float) -> Cases:
    """The cases with these weights, of those that belong to a domain and of the others."""
    return replace(cases, weights=np.where(inside(cases), own, others))


def part(cases: Cases, keep: Any) -> Cases:
    """Some of the cases."""
    return Cases(cases.signs[keep], cases.right[keep], cases.weights[keep])


def area(own: Any, others: Any) -> float:
    """Area under the ROC curve: how often a message inside has the higher value than one outside."""
    pairs = (own[:, None] > others[None]).mean() + 0.5 * (own[:, None] == others[None]).mean()
    return float(pairs)


def calibration_error(confidence: Any, right: Any, bins: int = 10) -> float:
    """Expected calibration error in equal bins."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place)]
    return float(sum(gaps))


def curve(by: tuple[float, float, float], odds: Any, domains: int) -> Any:
    """Probabilities from log-odds by one of the blend's curves."""
    return 1 / (1 + np.exp(-(by[0] + by[1] * odds + by[2] * np.log(domains))))


def shown(name: str, sure: Any, within: Any, right: Any, own: Any) -> None:
    """Print a set's cross-validated figures."""
    print(
        f"{name}: accuracy {right[own].mean():.3f} of {own.sum()}, mean confidence {sure[own].mean():.3f}, calibration"
        f" error {calibration_error(sure[own], right[own]):.3f}, area outside by confidence"
        f" {area(sure[own], sure[~own]):.3f} and by inside {area(within[own], within[~own]):.3f}"
    )


def read(*paths: Path) -> list[dict[str, Any]]:
    """The messages of some sets."""
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def balanced(one: Cases) -> Cases:
    """The cases with the weights of a calibration: OUTSIDE_EXPECTED of them belong to no domain."""
    own = int(inside(one).sum())
    return weighed(one, 1.0, OUTSIDE_EXPECTED / (1 - OUTSIDE_EXPECTED) * own / max(1, len(one.right) - own))


def judged(blend: Blend, one: Cases) -> tuple[Any, Any, Any]:
    """For each case the confidence in the domain put first, the probability of inside, and whether it is right."""
    odds, sure, right, _ = odds_of(blend, one)
    domains = one.signs.shape[1] - 1
    return curve(blend.right, sure, domains), curve(blend.inside, odds, domains), right


def crossed(
    sets: Mapping[str, Seen], blend_of: Callable[[Any], Blend], rng: np.random.Generator
) -> dict[str, list[Any]]:
    """By set what `judged` says of each message, each by the blend that `blend_of` makes of the other folds' messages,
    given as a mask."""
    count = len(next(iter(sets.values())).cases.right)
    found = {name: [np.zeros(count) for _ in range(3)] for name in sets}
    place = rng.permutation(count) % FOLDS
    for fold in range(FOLDS):
        blend = blend_of(place != fold)
        for name, one in sets.items():
            for column, values in zip(found[name], judged(blend, part(one.under(blend), place == fold)), strict=True):
                column[place == fold] = values
    return found


def main() -> int:
    """Fit, show figures on the development set, and write the file if asked to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    workspace = Workspace(ROOT)
    file = find_encoder()
    assert file is not None
    messages, others = read(*DEVELOP), read(CALIBRATE)
    catalog = load_catalog(workspace)
    first = [name for name, domain in catalog.domains.items() if domain.phase is not None]
    rng = np.random.default_rng(0)
    seen, fresh = {}, {}
    with Encoder(file) as running:
        encoder = RememberingEncoder(running)
        small, whole = Set(first, workspace, encoder), Set(list(catalog.domains), workspace, encoder)
        left = weighed(small.left_out(), SHARE_28, SHARE_OUTSIDE)
        left_all = weighed(whole.left_out(), SHARE_ALL, SHARE_OUTSIDE / 3)
        sets = {"28 domains": small}
        for size in SMALLER:
            mixed = list(rng.permutation(first))
            for at in range(0, len(mixed) - size + 1, size):
                names = sorted(mixed[at : at + size])
                sets[f"{size} domains, {names[0]} …"] = Set(names, workspace, encoder)
        for name, one in sets.items():
            seen[name], fresh[name] = one.seen(messages), one.seen(others)
        identity = encoder.identity

    def weights(keep: Any = ALL) -> Blend:
        """Fitted to these of the development messages."""
        known = {name: part(one.cases, keep) for name, one in seen.items()}
        fewer = [
            weighed(one, SHARE_SMALLER, SHARE_SMALLER * SHARE_ELSEWHERE)
            for name, one in known.items()
            if name[:2] != "28"
        ]
        return fit(START, [left, left_all, known["28 domains"], *fewer], prior_rows=1.0)

    def calibrated(blend: Blend, keep: Any = ALL) -> Blend:
        """With curves fitted to these of the messages of other writers."""
        return with_curves(blend, [balanced(part(one.under(blend), keep)) for one in fresh.values()], HELD)

    whole_blend = weights()
    found = crossed(seen, lambda keep: calibrated(weights(keep)), rng)
    found_fresh = crossed(fresh, lambda keep: calibrated(whole_blend, keep), rng)
    sure, _, right = found["28 domains"]
    own = inside(seen["28 domains"].cases)
    final = replace(
        calibrated(whole_blend),
        encoder=identity,
        method="left-out rows of the shipped examples, the development sets, and for confidence messages of other"
        " writers: benchmarks/fit_router.py",
        accuracy=round(float(right[own].mean()), 4),
        n=int(own.sum()),
    )
    print(json.dumps(final.as_dict(), indent=1))
    for title, columns, sets_seen in (
        ("development sets, weights cross-validated", found, seen),
        ("messages of other writers, curves cross-validated", found_fresh, fresh),
    ):
        print(title)
        for start, name in (("28", "28 domains"), *((f"{size} ", f"sets of {size}") for size in SMALLER)):
            some = [key for key in sets_seen if key.startswith(start)]
            joined = [np.concatenate([columns[key][at] for key in some]) for at in range(3)]
            shown(name, *joined[:2], joined[2] > 0, np.concatenate([inside(sets_seen[key].cases) for key in some]))
    right = right > 0
    for least in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        kept = sure >= least
        print(
            f"  from {least}: answered {kept[own].mean():.3f}, right of all {(right & kept)[own].mean():.3f}, outside"
            f" abstained {(~kept[~own]).mean():.3f}"
        )
    if arguments.write:
        FILE.write_text(json.dumps(final.as_dict(), indent=1) + "\n", "utf-8")
        print(f"written: {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
