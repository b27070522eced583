"""`tara chat` and `tara route`: talk to a release, and see where a message goes and why."""

import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from core.cli.common import NUMBER, is_terminal, json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput, Refused
from core.text import clean
from core.workspace import Workspace

phase_option = click.option("--phase", type=NUMBER, metavar="N", help="The phase (default: the current one).")
release_option = click.option("--release", metavar="DIR", help="A release or bundle folder, instead of a phase's.")
_BY_HAND = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


@click.command("chat")
@click.argument("message", nargs=-1)
@phase_option
@release_option
@click.option("--domain", metavar="NAME", help="Who answers (default: the router decides).")
@click.option("--max-tokens", type=click.IntRange(1, 4096), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=int, default=0, show_default=True)
@root_option
@json_option
def chat(
    message: tuple[str, ...],
    phase: int | None,
    release: str | None,
    domain: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
    root: str | None,
    as_json: bool,
) -> None:
    """Ask a release MESSAGE, or, without one, hold a conversation: a line a message, from a terminal or a pipe."""
    from core.chat.guidance import rules_of
    from core.chat.protocol import SamplingOptions
    from core.chat.session import Conversation

    workspace = None if release and not root else workspace_of(root)
    folder, number = _folder(workspace, phase, release)
    sampling = SamplingOptions(max_tokens=max_tokens, temperature=temperature, seed=seed)
    context = click.get_current_context()
    named = {name for name in ("max_tokens", "temperature") if context.get_parameter_source(name) in _BY_HAND}
    rules = rules_of(workspace)
    with Conversation(folder, sampling=sampling, kept=named, rules=rules) as conversation:
        if message:
            _turn(conversation, " ".join(message), domain, workspace, number, as_json)
            return
        if is_terminal() and sys.stdin.isatty():
            click.echo(f"{folder.name}: {', '.join(conversation.engine.domains)}; an empty line or Ctrl-D leaves")
        while True:
            if sys.stdin.isatty() and not as_json:
                click.echo("> ", nl=False)
            line = sys.stdin.readline()
            if not line.strip():
                return
            _turn(conversation, line.strip(), domain, workspace, number, as_json)


@click.command("route")
@click.argument("text", nargs=-1)
@phase_option
@release_option
@click.option("--batch", type=click.Path(dir_okay=False), metavar="FILE", help="A JSON object with `text` a line.")
@root_option
@json_option
def route(
    text: tuple[str, ...], phase: int | None, release: str | None, batch: str | None, root: str | None, as_json: bool
) -> None:
    """Show which domain TEXT goes to, and all the parts of the decision. Nothing is generated."""
    from core.routing import Router, explain

    if bool(text) == bool(batch):
        raise InvalidInput("give a text, or --batch FILE")
    workspace = None if release and not root else workspace_of(root)
    folder, _ = _folder(workspace, phase, release)
    router = Router.load(folder / "routing.json")
    if batch is not None:
        for line in _batch(Path(batch)):
            started = time.perf_counter()
            decision = router.route(line)
            click.echo(_json_line(decision_json(line, decision, time.perf_counter() - started)))
        return
    started = time.perf_counter()
    decision = router.route(" ".join(text))
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


def _turn(
    conversation: Any, message: str, domain: str | None, workspace: Workspace | None, phase: int | None, as_json: bool
) -> None:
    from core.chat.history import remember
    from core.routing import headline

    turn = conversation.ask(message, domain)
    if not as_json:
        click.echo(f"[{clean(turn.domain or 'base model')}] {clean(headline(turn.decision))}", err=True)
        if turn.guidance is not None:
            click.echo(f"[tone: {clean(turn.guidance.name)}, for {clean(turn.guidance.reason)}]", err=True)
        if turn.resources:
            click.echo(f"{turn.resources}\n")
    parts = []
    for piece in turn.pieces():
        parts.append(piece)
        if not as_json:
            click.echo(clean(piece), nl=False)
    text = "".join(parts)
    if not as_json:
        click.echo()
        if turn.done is not None and turn.done.tokens_per_s is not None:
            stopped = "" if turn.done.stopped_by == "eos" else f", stopped by {turn.done.stopped_by}"
            first = f", first after {turn.done.first_token_s:.2f} s" if turn.done.first_token_s is not None else ""
            click.echo(f"[{turn.done.tokens} tokens, {turn.done.tokens_per_s:.0f} tokens/s{first}{stopped}]", err=True)
    else:
        done = turn.done
        print_json(
            {
                "domain": turn.domain,
                "answer": text,
                "resources": turn.resources,
                "guidance": _guidance_json(turn.guidance),
                "tokens": done.tokens if done else None,
                "tokens_per_s": done.tokens_per_s if done else None,
                "first_token_s": done.first_token_s if done else None,
                "stopped_by": done.stopped_by if done else None,
                "decision": decision_json(message, turn.decision, 0.0) | {"ms": None},
            }
        )
    if workspace is not None:
        remember(workspace, "chat", str(conversation.folder), phase, turn, text)


def _guidance_json(guidance: Any) -> dict[str, Any] | None:
    """What steered the answer, None where it was answered as usual."""
    if guidance is None:
        return None
    return {
        "rule": guidance.name,
        "of": guidance.domain,
        "because": guidance.reason,
        "instruction": guidance.instruction,
        "sampling": dict(guidance.sampling),
    }


def _folder(workspace: Workspace | None, phase: int | None, release: str | None) -> tuple[Path, int | None]:
    """The release or bundle to use, and its phase where known."""
    if release is not None:
        folder = Path(release).expanduser().resolve()
        current = folder / "current"
        return (current.resolve() if current.is_symlink() else folder), None
    assert workspace is not None
    from core.deploy.current import release_folder
    from core.store.reads import open_reader

    with open_reader(workspace) as reader:
        phases = reader.phases()
    number = phase or next((one.number for one in phases if one.current), None)
    if number is None:
        raise Refused("there is no phase yet", "tara quickstart, or tara create-phase 1 --domains …")
    found = release_folder(workspace, number)
    if found is None:
        raise Refused(f"phase {number} has neither a release nor a built bundle", f"tara build-phase {number}")
    return found, number


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
