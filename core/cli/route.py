"""`tara route`: see where a message goes and why."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import NUMBER, json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput
from core.text import clean
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.routing import Decision, Desk
    from core.routing.past import Past

phase_option = click.option("--phase", type=NUMBER, metavar="N", help="The phase (default: the current one).")
release_option = click.option("--release", metavar="DIR", help="A release or bundle folder, instead of a phase's.")
STANDARD_INPUT = "-"
MOST_FAULTS_SHOWN = 3


@click.command("route")
@click.argument("text", nargs=-1)
@phase_option
@release_option
@click.option("--domains", metavar="A,B,…", help="Domains of the catalogue, or `all`; nothing need be built.")
@click.option("--prefer", type=click.Choice(("speed", "balanced", "quality")), help="Whose weights (docs/chat.md).")
@click.option("--user", metavar="NAME", help="Whose history counts (default: nobody's).")
@click.option("--previous", metavar="TEXT", help="The message before.")
@click.option("--batch", metavar="FILE", help="JSON lines: `text`, maybe `user`, `previous`; - is standard input.")
@root_option
@json_option
def route(
    text: tuple[str, ...],
    phase: int | None,
    release: str | None,
    domains: str | None,
    prefer: str | None,
    user: str | None,
    previous: str | None,
    batch: str | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Show which domain TEXT goes to, and all the parts of the decision. Nothing is generated.

    Messages are routed among the domains of a release, of a phase (of its release or bundle, or, where it is not built
    yet, of the catalogue), or of --domains; without a phase among all of the catalogue.
    """
    from core.chat.preference import BALANCED, preference
    from core.routing import explain

    if bool(text) == bool(batch):
        raise InvalidInput("give a text, or --batch FILE")
    if batch and (user or previous):
        raise InvalidInput("--user and --previous are for one text; a line of a batch names its own")
    if sum(one is not None for one in (phase, release, domains)) > 1:
        raise InvalidInput("give one of --phase, --release and --domains")
    messages = read_batch(batch) if batch else [Asked(" ".join(text), user, previous)]
    workspace = None if release and not root else workspace_of(root)
    if workspace is None and any(message.user is not None for message in messages):
        raise InvalidInput("a person's history is in a workspace", "name it with --root, or leave the user out")
    pasts = Pasts(workspace)
    pasts.check(messages)
    with _desk(workspace, phase, release, domains) as desk:
        weights = (preference(prefer) if prefer else BALANCED).weights(desk.weights)
        desk.start()
        for message in messages:
            past = pasts.of(message.user)
            before = None
            if message.previous is not None:
                before = desk.route(message.previous, weights=weights, past=past)
            started = time.perf_counter()
            decision = desk.route(
                message.text,
                before.domain if before is not None else None,
                weights=weights,
                past=past,
                previous=message.previous,
                crisis_before=before.crisis if before is not None else None,
            )
            seconds = time.perf_counter() - started
            if batch:
                click.echo(json.dumps(decision_json(decision, seconds), ensure_ascii=True))
            elif as_json:
                print_json(decision_json(decision, seconds))
            else:
                click.echo("\n".join(clean(line) for line in explain(decision)))


@dataclass(frozen=True)
class Asked:
    """One message of a batch."""

    text: str
    user: str | None = None
    previous: str | None = None


def read_batch(name: str) -> list[Asked]:
    """The messages of a file of JSON objects, one a line; empty lines are left out.

    All are read before the first is routed. Raises InvalidInput naming the lines that cannot be used.
    """
    source = "standard input" if name == STANDARD_INPUT else name
    try:
        raw = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).expanduser().read_bytes()
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {name}") from None
    except IsADirectoryError:
        raise InvalidInput(f"{name} is a folder", "name a file of JSON lines") from None
    messages, faults = [], []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            messages.append(_asked(line))
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        more = f" (and {len(faults) - MOST_FAULTS_SHOWN} more)" if len(faults) > MOST_FAULTS_SHOWN else ""
        raise InvalidInput(
            f"{source}, {'; '.join(faults[:MOST_FAULTS_SHOWN])}{more}",
            'a line is {"text": …}, with "user" and "previous" where they are known; nothing was routed',
        )
    return messages


def _asked(line: bytes) -> Asked:
    try:
        found = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if not isinstance(found.get("text"), str):
        raise ValueError("no `text`" if "text" not in found else "`text` is not a text")
    for key in ("user", "previous"):
        if found.get(key) is not None and not isinstance(found[key], str):
            raise ValueError(f"`{key}` is not a text")
    return Asked(found["text"], found.get("user"), found.get("previous"))


class Pasts:
    """What people's histories say, each read once."""

    def __init__(self, workspace: Workspace | None) -> None:
        self._workspace = workspace
        self._known: dict[str, Past] = {}
        self._half_life_h = 0.0

    def check(self, messages: list[Asked]) -> None:
        """Raises InvalidInput for a name that can be nobody's, before anything is routed."""
        from core.chat.history import user_named

        for number, message in enumerate(messages, 1):
            if message.user is not None:
                try:
                    user_named(message.user)
                except InvalidInput as error:
                    raise InvalidInput(f"message {number}: {error.message}", error.hint) from error

    def of(self, user: str | None) -> "Past | None":
        """What this person's earlier chats left; None for nobody, or without a workspace."""
        if user is None or self._workspace is None:
            return None
        if user not in self._known:
            from core.catalog.loading import load_settings
            from core.chat.history import memory_of, user_named

            self._half_life_h = self._half_life_h or load_settings(self._workspace).history_half_life_h
            self._known[user] = memory_of(self._workspace, user_named(user), self._half_life_h).past()
        return self._known[user]


def _desk(workspace: Workspace | None, phase: int | None, release: str | None, domains: str | None) -> "Desk":
    """What routes: a release's or phase's data, or the catalogue's."""
    from core.catalog.loading import load_settings
    from core.catalog.model import Settings
    from core.phases.routed import desk_of_domains, desk_of_folder, desk_of_phase
    from core.phases.talking import folder_of_release

    if release is not None:
        settings = load_settings(workspace) if workspace is not None else Settings()
        return desk_of_folder(folder_of_release(release), settings)
    assert workspace is not None
    return desk_of_domains(workspace, domains, _say) if domains is not None else desk_of_phase(workspace, phase, _say)


def _say(line: str) -> None:
    click.echo(line, err=True)


def decision_json(decision: "Decision", seconds: float) -> dict[str, Any]:
    """A routing decision for scripts; `ms` is the time it took, with the reading of this message alone."""
    return {
        "domain": decision.domain,
        "confidence": decision.confidence,
        "unsure": decision.unsure,
        "reason": decision.reason,
        "method": decision.method,
        "inside": decision.inside,
        "nearest": decision.nearest,
        "consensus": list(decision.consensus) if decision.consensus else None,
        "follow_up": decision.follow_up,
        "topic_changed": decision.topic_changed,
        "tie": decision.tie,
        "unavailable": dict(decision.unavailable),
        "crisis": decision.crisis is not None,
        "crisis_kind": decision.crisis.kind if decision.crisis is not None else None,
        "crisis_method": decision.crisis_method,
        "resources": decision.resources,
        "urgency": decision.urgency,
        "complexity": decision.complexity,
        "emotions": dict(decision.emotions),
        "emotion_method": decision.emotion.method,
        "emotion_confidence": decision.emotion.confidence,
        "intensity": decision.intensity,
        "weights": dict(decision.weights),
        "none": decision.none,
        "candidates": [
            {
                "domain": candidate.domain,
                "total": candidate.total,
                **{name: getattr(candidate, name) for name in decision.weights},
                "near_best": candidate.near_best,
                "matched": list(candidate.matched),
                "score": candidate.score,
                "signs": dict(candidate.signs),
                "notes": list(candidate.notes),
            }
            for candidate in decision.candidates
        ],
        "note": decision.note or None,
        "ms": round(1000 * seconds, 3),
    }
