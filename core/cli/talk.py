"""`tara chat`: talk to a release, a model or an adapter."""

import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from core.cli.common import is_terminal, json_option, print_json, root_option, workspace_of
from core.cli.route import decision_json, phase_option, release_option
from core.errors import ExitCode, InvalidInput, TaraError
from core.text import StreamCleaner, clean
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.chat.session import Conversation, Turn
    from core.chat.subject import Subject


_BY_HAND = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


@click.command("chat")
@click.argument("message", nargs=-1)
@phase_option
@release_option
@click.option("--artifact", metavar="ARTIFACT", help="A GGUF model or adapter, by number, name or path.")
@click.option("--domain", metavar="NAME", help="Who answers (default: the router decides).")
@click.option("--once", metavar="TEXT", help="Ask this and leave; the same as MESSAGE.")
@click.option("--prefer", type=click.Choice(("speed", "balanced", "quality")), help="Default: as configured.")
@click.option("--user", metavar="NAME", help="Whose history it is (default: the system's user name).")
@click.option("--max-tokens", type=click.IntRange(1, 4096), help="Default: 128, 256 or 512, by --prefer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=int, default=0, show_default=True)
@root_option
@json_option
def chat(
    message: tuple[str, ...],
    phase: int | None,
    release: str | None,
    artifact: str | None,
    domain: str | None,
    once: str | None,
    prefer: str | None,
    user: str | None,
    max_tokens: int | None,
    temperature: float,
    seed: int,
    root: str | None,
    as_json: bool,
) -> None:
    """Ask a release MESSAGE, or, without one, hold a conversation: a line a message, from a terminal or a pipe."""
    from core.catalog.loading import load_settings
    from core.catalog.model import Settings
    from core.chat.guidance import rules_of
    from core.chat.history import memory_of, user_named
    from core.chat.opening import open_conversation
    from core.chat.preference import preference
    from core.chat.protocol import SamplingOptions

    if message and once is not None:
        raise InvalidInput("give a message or --once, not both")
    if sum(one is not None for one in (phase, release, artifact)) > 1:
        raise InvalidInput("give one of --phase, --release and --artifact")
    question = once if once is not None else " ".join(message) if message else None
    if question is not None and not question.strip():
        raise InvalidInput("the message is empty")
    workspace = _workspace(release, artifact, root)
    settings = load_settings(workspace) if workspace is not None else Settings()
    liking = preference(prefer or settings.chat_prefer)
    subject, number = _subject(workspace, phase, release, artifact)
    if domain is not None and domain not in subject.prompts:
        has = ", ".join(sorted(subject.prompts))
        raise InvalidInput(f"there is no domain {domain!r} here", f"it has: {has}" if has else "leave --domain out")
    name = user_named(user)
    memory = memory_of(workspace, name, settings.history_half_life_h) if workspace is not None else None
    sampling = SamplingOptions(max_tokens or liking.max_tokens, temperature=temperature, seed=seed)
    context = click.get_current_context()
    chosen = {name for name in ("max_tokens", "temperature") if context.get_parameter_source(name) in _BY_HAND}
    rules = rules_of(workspace)
    with open_conversation(subject, settings, liking, sampling, memory, chosen, rules) as conversation:
        talk = Talk(conversation, domain, workspace, number, name, as_json)
        if question is not None:
            talk.turn(question)
        elif not talk.hold():
            context.exit(int(ExitCode.FAILED))


def _workspace(release: str | None, artifact: str | None, root: str | None) -> Workspace | None:
    """The workspace of this call; none where a release, or a file that is none of a workspace, is named alone."""
    if release is not None and not root:
        return None
    try:
        return workspace_of(root)
    except InvalidInput:
        if artifact is not None and not root:
            return None
        raise


def _subject(
    workspace: Workspace | None, phase: int | None, release: str | None, artifact: str | None
) -> tuple["Subject", int | None]:
    """What is talked to, and its phase where known."""
    from core.chat.subject import Subject
    from core.phases.talking import folder_of_phase, folder_of_release, subject_of_artifact

    if artifact is not None:
        return subject_of_artifact(workspace, artifact), None
    if release is not None:
        return Subject.of_folder(folder_of_release(release)), None
    assert workspace is not None
    folder, number = folder_of_phase(workspace, phase)
    return Subject.of_folder(folder), number


class Talk:
    """A conversation as a command shows it: answers on standard output, everything about them on standard error."""

    def __init__(
        self,
        conversation: "Conversation",
        domain: str | None,
        workspace: Workspace | None,
        phase: int | None,
        user: str,
        as_json: bool,
    ) -> None:
        self.conversation = conversation
        self.domain = domain
        self.workspace = workspace
        self.phase = phase
        self.user = user
        self.as_json = as_json
        self._gone: dict[str, str] = {}  # the domains that were told not to answer now

    def hold(self) -> bool:
        """A line a message until an empty one or the end of the input; Ctrl-C stops an answer, then leaves. Whether all
        were answered: one that was not is told, and the next line is read."""
        if is_terminal() and sys.stdin.isatty() and not self.as_json:
            who = clean(", ".join(self.conversation.engine.domains) or "no domain")
            click.echo(f"{clean(self.conversation.subject.name)}: {who}; an empty line or Ctrl-D leaves")
            threading.Thread(target=self.conversation.router.start, daemon=True).start()  # while the person types
        from core.chat.telling import stats_line

        asked = failed = 0
        while True:
            if sys.stdin.isatty() and not self.as_json:
                click.echo("> ", nl=False)
            line = sys.stdin.readline()
            if not line.strip():
                break
            asked += 1
            try:
                self.turn(line.strip(), alone=False)
            except TaraError as error:
                failed += 1
                self._fail(error)
        if asked > 1 and not self.as_json:
            click.echo(f"[{stats_line(self.conversation.figures())}]", err=True)
        return not failed

    def turn(self, message: str, *, alone: bool = True) -> None:
        """One question and its answer. Raises TaraError where nobody could answer; where the answer cannot be kept in
        the history, that too is an error of a question that is asked `alone`, and told in a conversation."""
        turn = self.conversation.ask(message, self.domain)
        text, notices = self._answer(turn)
        unkept = self._keep(turn, text)
        if unkept is not None and not alone:
            notices.append(f"not kept in the history: {unkept.one_line()}")
            self._tell(f"[{clean(notices[-1])}]")
        if self.as_json:
            print_json({**turn_json(turn, text, notices), "user": self.user, "stats": self._stats()})
        if unkept is not None and alone:
            raise unkept

    def _keep(self, turn: "Turn", text: str) -> TaraError | None:
        """Put a turn into the history; what was in the way of it."""
        from core.chat.history import remember

        if self.workspace is not None:
            try:
                bundle = str(self.conversation.folder)
                remember(self.workspace, "chat", bundle, self.phase, turn, text, self.user)
            except TaraError as error:
                return error
        return None

    def _fail(self, error: TaraError) -> None:
        """Say why a message was not answered."""
        if self.as_json:
            print_json({"error": error.message, "hint": error.hint})
        else:
            click.echo(f"tara: {clean(error.one_line())}", err=True)

    def _stats(self) -> dict[str, Any]:
        return {name: {**asdict(one), "rate": one.rate} for name, one in self.conversation.figures().items()}

    def _answer(self, turn: "Turn") -> tuple[str, list[str]]:
        """Show an answer as it comes; its text, as far as it came where the person stopped it, and what was told beside
        it."""
        from core.chat.client import Done, Token
        from core.chat.session import Notice
        from core.chat.telling import done_line
        from core.routing import headline

        for name, why in sorted(turn.decision.unavailable.items() - self._gone.items()):
            self._tell(f"[{clean(f'{name} cannot answer now: {why}')}]")
        self._gone = dict(turn.decision.unavailable)
        self._tell(f"[{clean(turn.domain or 'base model')}] {clean(headline(turn.decision))}")
        if turn.guidance is not None:
            self._tell(f"[tone: {clean(turn.guidance.line())}]")
        shown, parts, notices = StreamCleaner(), [""], list[str]()
        try:
            for event in turn.events():
                if isinstance(event, Token):
                    parts.append(event.text)
                    self._say(shown.feed(event.text))
                elif isinstance(event, Notice):
                    notices.append(event.text)
                    if event.anew:
                        self._say(shown.finish() + "\n" if len(parts) > 1 else "")
                        parts = [""]
                    self._notice(event.text, turn)
                elif isinstance(event, Done):
                    self._say(f"{shown.finish()}\n")
                    self._tell(f"[{done_line(event)}]")
                else:
                    other = event.other
                    self._tell(f"\n[{clean(event.line())}]")
                    self._tell(f"[{clean(other.domain)} would have said: {clean(' '.join(other.text.split()))}]")
        except TaraError:
            self._say(f"{shown.finish()}\n" if len(parts) > 1 else "")  # what is wrong is told on a line of its own
            raise
        except KeyboardInterrupt:
            if not is_terminal() or not sys.stdin.isatty():
                raise
            self.conversation.cancel()
            turn.close()
            self._say(f"{shown.finish()}\n")
            self._tell("[stopped]")
        return turn.done.text if turn.done is not None else "".join(parts), notices

    def _notice(self, text: str, turn: "Turn") -> None:
        """What is for the person's eyes goes where the answer goes, what is about the engine does not."""
        if text == turn.resources:
            self._say(f"{clean(text)}\n\n")
        else:
            self._tell(f"[{clean(text)}]")

    def _say(self, text: str) -> None:
        if not self.as_json and text:
            click.echo(text, nl=False)

    def _tell(self, line: str) -> None:
        if not self.as_json:
            click.echo(line, err=True)


def turn_json(turn: "Turn", text: str, notices: Iterable[str]) -> dict[str, Any]:
    """A turn for scripts."""
    done, compared = turn.done, turn.compared
    return {
        "domain": turn.domain,
        "answer": text,
        "resources": turn.resources,
        "guidance": None if turn.guidance is None else turn.guidance.as_json(),
        "tokens": done.tokens if done else None,
        "tokens_per_s": done.tokens_per_s if done else None,
        "first_token_s": done.first_token_s if done else None,
        "switch_s": done.switch_s if done else None,
        "load_s": done.load_s if done else None,
        "waited_s": done.waited_s if done else None,
        "reused_tokens": done.reused if done else None,
        "stopped_by": done.stopped_by if done else None,
        "cached": done.cached if done else False,
        "restarts": done.restarts if done else 0,
        "forgotten": done.forgotten if done else 0,
        "fallback": turn.fallback,
        "consensus": None
        if compared is None
        else {
            "rule": compared.rule,
            "chosen": compared.chosen,
            "seconds": compared.seconds,
            "answers": [{**asdict(one), "gain": one.gain} for one in compared.answers],
        },
        "notices": [one for one in notices if one != turn.resources],
        "decision": decision_json(turn.decision, 0.0) | {"ms": None},
    }
