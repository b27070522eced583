"""From where the crisis gate asks its adapter: python -m core.training.crisis_screen DATA writes it into the weights.

The adapter is a second reading of a message by the encoder. Of the crises held out that the gate finds, those that the
other readings think least of say how low these must lean for it to be left out. DATA is the folder of the emotion
data; some minutes. `crisis_gate` ends with this.
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from core.encoder import Encoder, find_encoder
from core.errors import EnvironmentLacks, TaraError
from core.files import write_atomically
from core.routing.crisis_model import WEIGHTS, adapter_of, load_model
from core.routing.crisis_wording import CrisisWording
from core.routing.typos import Speller
from core.training.crisis_cases import SEED, training_cases
from core.training.crisis_data import Case, misspelled, mistyped

LOST = 0.002  # the share of found crises that may lean lower, at most
SPARE = 0.1  # log-odds below that
WRONG = 3  # times that each is mistyped and misspelled: what a corrected spelling hides is rare


def fit_screen(held: Sequence[Case], encoder: Encoder) -> dict[str, dict[str, float]]:
    """The leaning from which the adapter is asked, of messages as they were `written` and of `corrected` ones; and of
    how many crises that the gate finds how many lean lower, and so are lost.

    Raises EnvironmentLacks for an encoder that the adapter is not of.
    """
    crises = [case.text for case in held if case.crisis]
    chance, speller = random.Random(SEED), Speller(set())
    wrong = [change(text, chance) for text in crises for change in (mistyped, misspelled) * WRONG]
    pairs = {
        "written": [(text, text) for text in crises],
        "corrected": [(text, right) for text in wrong if (right := speller.correct(text)) != text],
    }
    found = {}
    for name, own in pairs.items():
        leanings = np.sort(list(_leanings(own, encoder)))
        least = round(float(leanings[int(LOST * len(leanings))]) - SPARE, 2)
        found[name] = {"least": least, "lost": int((leanings < least).sum()), "of": len(leanings)}
    return found


def _leanings(pairs: Iterable[tuple[str, str]], encoder: Encoder) -> Iterator[float]:
    """The leaning, by the second text's vector, of each first text that the gate takes for a crisis."""
    adapter, model = adapter_of(encoder.gguf), load_model()
    if adapter is None:
        raise EnvironmentLacks(f"{encoder.gguf.name} is not the encoder that the gate's adapter is of", "name none")
    for text, seen in pairs:
        wording = CrisisWording(text)
        if wording.certain:
            continue
        vectors = encoder.embed_adapted([text], [None, adapter])[0]
        if model.read(wording, vectors) is not None:
            yield model.leaning(wording, vectors[0] if seen == text else encoder.embed([seen])[0])


def write_screen(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Fit on the cases that are held out, and write into the shipped weights."""
    file = find_encoder()
    if file is None:
        raise EnvironmentLacks("TARA_ENCODER switches the encoder off", "unset it")
    load_model.cache_clear()  # they may be new
    with Encoder(file) as encoder:
        found = fit_screen([case for case in cases if case.held_out], encoder)
    data = json.loads(WEIGHTS.read_text("utf-8"))
    data["fitted"]["screen"] = found
    write_atomically(WEIGHTS, json.dumps(data, indent=1) + "\n")
    load_model.cache_clear()
    return found


def main(arguments: list[str]) -> int:
    """Fit and write; the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m core.training.crisis_screen DATA", file=sys.stderr)
        return 2
    try:
        print(json.dumps(write_screen(training_cases(Path(arguments[0])))))
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
