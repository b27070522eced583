"""`tara route`: see where a message goes and why."""

import time
from pathlib import Path
from typing import Any

import click

from core.cli.common import NUMBER, json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput
from core.text import clean

phase_option = click.option("--phase", type=NUMBER, metavar="N", help="The phase (default: the current one).")
release_option = click.option("--release", metavar="DIR", help="A release or bundle folder, instead of a phase's.")


@click.command("route")
@click.argument("text", nargs=-1)
@phase_option
@release_option
@click.option("--prefer", type=click.Choice(("speed", "balanced", "quality")), help="Whose weights (docs/chat.md).")
@click.option("--batch", type=click.Path(dir_okay=False), metavar="FILE", help="A JSON object with `text` a line.")
@root_option
@json_option
def route(
    text: tuple[str, ...],
    phase: int | None,
    release: str | None,
    prefer: str | None,
    batch: str | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Show which domain TEXT goes to, and all the parts of the decision. Nothing is generated."""
    from core.chat.preference import BALANCED, preference
    from core.phases.talking import folder_of_phase, folder_of_release
    from core.routing import Router, explain

    if bool(text) == bool(batch):
        raise InvalidInput("give a text, or --batch FILE")
    workspace = None if release and not root else workspace_of(root)
    if release is not None:
        folder = folder_of_release(release)
    else:
        assert workspace is not None
        folder, _ = folder_of_phase(workspace, phase)
    router = Router.load(folder / "routing.json")
    weights = (preference(prefer) if prefer else BALANCED).weights(router.weights)
    if batch is not None:
        for line in _batch(Path(batch)):
            started = time.perf_counter()
            decision = router.route(line, weights=weights)
            click.echo(_json_line(decision_json(line, decision, time.perf_counter() - started)))
        return
    started = time.perf_counter()
    decision = router.route(" ".join(text), weights=weights)
    if as_json:
        print_json(decision_json(" ".join(text), decision, time.perf_counter() - started))
    else:
        click.echo("\n".join(clean(line) for line in explain(decision)))


def decision_json(text: str, decision: Any, seconds: float) -> dict[str, Any]:
    """A routing decision for scripts; `ms` is the time it took."""
    return {
        "domain": decision.domain,
        "confidence": decision.confidence,
        "unsure": decision.unsure,
        "reason": decision.reason,
        "crisis": decision.crisis is not None,
        "resources": decision.resources,
        "urgency": decision.urgency,
        "complexity": decision.complexity,
        "emotions": dict(decision.emotions),
        "intensity": decision.intensity,
        "weights": dict(decision.weights),
        "candidates": [
            {
                "domain": candidate.domain,
                "total": candidate.total,
                **{name: getattr(candidate, name) for name in decision.weights},
                "notes": list(candidate.notes),
            }
            for candidate in decision.candidates
        ],
        "ms": round(1000 * seconds, 3),
    }


def _batch(path: Path) -> list[str]:
    import json

    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    texts = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path}, line {number}: not an object with `text` ({error})") from error
    return texts


def _json_line(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
