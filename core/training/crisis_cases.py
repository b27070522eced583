"""All that the crisis gate is trained and tuned on, in one order; its test sets are not among it."""

from pathlib import Path

from core.routing.crisis_model import ORDINARY
from core.training.crisis_data import Case, development_cases, everyday_cases, shipped_cases
from core.training.crisis_talk import talk_cases

DATA = Path(__file__).resolve().parents[2] / "benchmarks" / "data"
SEED = 1
TALK_CASES = 7000


def training_cases(said: Path, data_folder: Path = DATA) -> list[Case]:
    """What people say to each other (the emotion data in `said`), the shipped cases, the development sets."""
    return [
        *talk_cases(said, TALK_CASES, SEED),
        *shipped_cases(),
        *shipped_cases(ORDINARY),
        *development_cases(data_folder / "crisis_develop.jsonl"),
        *everyday_cases(data_folder / "routing_develop.jsonl"),
        *everyday_cases(data_folder / "everyday_develop.jsonl"),
    ]
