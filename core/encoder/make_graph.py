"""Making the graph that reads an encoder's file by bytes: `python -m core.encoder.make_graph GGUF [ADAPTER]`.

Run by `graph_file.graph_of_file`, in a process of its own. A graph whose vectors are too unlike those of llama.cpp is
not kept, and why is written in its place.
"""

import os
import sys
from pathlib import Path

from core.encoder.byte_engine import ByteEngine
from core.encoder.channels import reached
from core.encoder.embeddings import Embeddings
from core.encoder.engine import Engine
from core.encoder.graph import graph_of, read_weights
from core.encoder.graph_file import graph_places, older_forms, refusal_of
from core.errors import TaraError
from core.files import discard, first_writable, staging_beside, sync_tree, write_atomically

LEAST_LIKENESS = 0.995  # cosine, in the mean over CHECKED, to what llama.cpp makes of the same file
MEASURED = (  # how far its channels reach; these, or a hundred, came to the same cosine
    "How do I keep a sourdough starter alive while I am away for three weeks?",
    "he said he'd pay me back in March!!! it is NOVEMBER and he isn't even sorry",
    "Write a short poem about the sea for my grandmother's eightieth birthday, please",
    "A contract of 12 months at 3.5 % interest: what do I owe after the 2nd payment?",
    "i dont no wat to do any more, nobody lisens",
    "The dog limps since yesterday, but eats, sleeps and plays as always. Should we wait?",
    "thanks",
)
CHECKED = (
    "My knee hurts when I climb the stairs.",
    "Should we raise prices before the contract is signed, or wait until spring?",
    "explain fractions to a nine year old",
    "I am so happy about the garden that I could sing!",
    "The team does not talk to each other any more, and I am supposed to lead it through the next release of a"
    " product which nobody believes in, with half of the people we had last year.",
    "yes",
)


def make(gguf: Path, adapter: Path | None) -> None:
    """Write the graph of an encoder's file, under an adapter where one is named, to where it is looked for.

    Raises TaraError: files that do not belong together, no room.
    """
    target = first_writable(graph_places(gguf, adapter), "the graph of an encoder")
    weights, shape = read_weights(gguf, adapter)
    embeddings = Embeddings(gguf)
    texts = [embeddings.of(embeddings.tokens(text)) for text in MEASURED]
    staged = staging_beside(target)
    try:
        staged.write_bytes(graph_of(weights, shape, reached(weights, shape, texts)))
        by_bytes, by_floats = ByteEngine(gguf, staged, lambda _: staged, lambda: Engine(gguf)), Engine(gguf)
        likeness = [by_bytes.embed(text, [adapter])[0] @ by_floats.embed(text, [adapter])[0] for text in CHECKED]
        mean = float(sum(likeness)) / len(likeness)
        if mean < LEAST_LIKENESS:
            why = f"in bytes its vectors have a cosine of {mean:.4f} to those in floats, {LEAST_LIKENESS} is asked"
            write_atomically(refusal_of(target), why + "\n")
            return
        sync_tree(staged)
        os.replace(staged, target)
        for old in older_forms(target):
            discard(old)
    finally:
        discard(staged)


def main(arguments: list[str]) -> int:
    """Make a graph; the exit status."""
    try:
        make(Path(arguments[0]), Path(arguments[1]) if arguments[1:] else None)
    except (TaraError, OSError) as error:
        print(error.one_line() if isinstance(error, TaraError) else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
