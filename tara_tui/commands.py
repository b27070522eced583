"""Every action of the console, once: bindings, palette and help are all made from this list."""

from collections.abc import Callable
from dataclasses import dataclass

from textual.binding import Binding

from core.store.views import Snapshot
from tara_tui.selection import Selection, active_release, cause, earlier_release

Reason = str | None
Enabled = Callable[[Snapshot | None, Selection], Reason]
LISTS = ("phases", "domains", "jobs")


def always(_snapshot: Snapshot | None, _selection: Selection) -> Reason:
    """Nothing forbids it."""
    return None


@dataclass(frozen=True)
class Command:
    """An action a person can take. `enabled` says why not, or None where it can be done."""

    id: str
    title: str
    key: str  # as Textual names it; more than one with commas
    shown: str  # as a person reads it
    help: str
    enabled: Enabled = always
    short: str = ""  # for the line of keys; '' is not shown there


def need_store(snapshot: Snapshot | None, _selection: Selection) -> Reason:
    return None if snapshot is not None else "the store has not been read yet"


def need_phase(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if snapshot is None:
        return "the store has not been read yet"
    return None if selection.phase else "there is no phase yet: n makes one"


def can_build(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    assert selection.phase is not None
    return None if selection.phase.domains else f"phase {selection.phase.number} has no domain: a adds one"


def can_train(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    if selection.domain is None:
        return "no domain is selected: a adds one to the phase"
    job = selection.domain.job
    if job is not None and job.kind == "train" and job.active and job.state != "blocked":
        return f"{selection.domain.name} is in job {job.id} already ({job.state})"
    return None


def can_remove(_snapshot: Snapshot | None, selection: Selection) -> Reason:
    if selection.domain is None:
        return "no domain is selected"
    job = selection.domain.job
    if job is not None and job.active and job.state != "blocked":
        return f"{selection.domain.name} is in job {job.id} ({job.state})"
    return None


def can_cancel(snapshot: Snapshot | None, selection: Selection) -> Reason:
    job = selection.job
    if job is None:
        return "no job is selected"
    if job.state == "stopping":
        return f"job {job.id} is stopping already"
    return None if job.active else f"job {job.id} is over ({job.state})"


def can_pause(snapshot: Snapshot | None, selection: Selection) -> Reason:
    job = selection.job
    if job is None:
        return "no job is selected"
    if job.state in ("queued", "starting", "running", "paused"):
        return None
    return f"job {job.id} is {job.state}"


def can_let_in(snapshot: Snapshot | None, selection: Selection) -> Reason:
    job = selection.job
    if job is None:
        return "no job is selected"
    if not job.waits_for:
        return f"job {job.id} does not wait for memory, disk or a device"
    return f"job {job.id} is let in already: it starts when a slot is free" if job.let_in else None


def can_retry(snapshot: Snapshot | None, selection: Selection) -> Reason:
    job = selection.job
    if job is None:
        return "no job is selected"
    if job.state in ("failed", "cancelled", "interrupted"):
        return None
    if job.state == "blocked" and snapshot is not None and (first := cause(snapshot, job)) is not job:
        return f"job {job.id} is blocked: retry job {first.id}, which it waits for"
    return f"job {job.id} is {job.state}: only a failed, cancelled or interrupted job is retried"


def can_measure(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    assert selection.phase is not None
    return None if selection.phase.bundle_path else f"phase {selection.phase.number} has no bundle: b builds it"


def can_deploy(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    assert selection.phase is not None
    number = selection.phase.number
    if not selection.phase.bundle_path:
        return f"phase {number} has no verified bundle: b builds it"
    busy = [one.name for one in selection.phase.domains if one.job is not None and one.job.active]
    return f"jobs of phase {number} are not done ({', '.join(busy)})" if busy else None


def can_roll_back(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    assert selection.phase is not None
    active = active_release(selection.phase)
    if active is None:
        return f"phase {selection.phase.number} is not deployed"
    return None if earlier_release(selection.phase) else f"there is no release before v{active.version} to go back to"


def can_ask(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if reason := need_phase(snapshot, selection):
        return reason
    assert selection.phase is not None
    return None if selection.bundle else f"phase {selection.phase.number} has nothing to talk to yet: b builds it"


def can_force(snapshot: Snapshot | None, selection: Selection) -> Reason:
    return None if selection.domain else "no domain is selected"


def can_start_runner(snapshot: Snapshot | None, selection: Selection) -> Reason:
    if snapshot is None:
        return "the store has not been read yet"
    return f"it runs already (process {snapshot.runner_pid})" if snapshot.runner_pid else None


def is_generating(snapshot: Snapshot | None, selection: Selection) -> Reason:
    return None if selection.generating else "no answer is being made"


BUILD = "Queue what is missing of the selected phase: training, conversion, quantization, verification, bundle."
BUILD_AS = "Build with another type, technique, merge, repair or least quality; shows what the phase has and asks."
RUNNER = "Start what runs queued jobs and follows running ones, where it was stopped. Jobs outlive it."
PAUSE = "A running training finishes its step, saves and leaves; pressed again, it goes on from there."
REMOVE = "Take the selected domain out of its phase, after a question; its adapter and measurements stay."
LET_IN = "Start the selected job though the memory, disk or device it is expected to need is not free."
SERVICE = "Have the machine start the runner, so that a restart goes on with what it broke off; or undo that."
TALK = "The selected phase's release routed, the selected domain, or what the selected job made; starts its engine."
ARTIFACT = "Choose a model, an adapter (on its own base) or a bundle, and talk to it."
PREFER = "Speed, balanced or quality: candidates, context and length of the answers."
SMOKE = "Ask the phase's bundle, or from the domains pane the domain, the canned prompts; the report is kept with it."
HISTORY = "What is remembered of your chats, and how much of it the router counts."
ERASE = "Delete your chat history, texts included, after a question."
INTRODUCE = "Add a domain of your own by what people say to it; messages are routed to it at once."
ROUTE = "Which domain would answer and why, by every part; nothing is generated, nothing need be built."
FORCE = "Let the router choose who answers, or the selected domain always."
DETAILS = "All that is known of what is selected: measurements with method and date, errors with what to do."
CHECKPOINTS = "What unfinished trainings of the selected domain left, and whether they would be gone on with."
PLAN = "What building the phase will take, or from the domains pane training the domain: memory, disk, time, what fits."
RECOMMEND = (
    "The ways to build the phase in order, by size, memory, speed and quality on this machine, and the best that fits."
)
COMPARE = "The phase's models, and others you name, side by side: size, divergence, perplexity, losses, speed, memory."
MEASURE = "Queue the measurement of the bundle's quantized models against the F16 files they were made from."
EXPORT = "Queue the selected domain, merged into its base, as one file to take elsewhere; asks for its type."
FILTER = "Show only lines with these words; !word for those without it. Esc shows all again."

COMMANDS: tuple[Command, ...] = (
    Command("build", "Build phase", "b", "b", BUILD, can_build, "build"),
    Command("build_as", "Build phase as", "B", "B", BUILD_AS, can_build),
    Command(
        "train",
        "Train domain",
        "t",
        "t",
        "Queue the training and evaluation of the selected domain.",
        can_train,
        "train",
    ),
    Command(
        "cancel", "Cancel job", "c", "c", "Stop the job whose log is shown, after a question.", can_cancel, "cancel"
    ),
    Command("pause", "Pause or resume job", "p", "p", PAUSE, can_pause, "pause"),
    Command("let_in", "Start the waiting job anyway", "s", "s", LET_IN, can_let_in),
    Command("retry", "Retry job", "r", "r", "Queue the failed job again, and what it blocked.", can_retry, "retry"),
    Command(
        "deploy",
        "Deploy phase",
        "d",
        "d",
        "Deploy the newest bundle; asks where and shows the version.",
        can_deploy,
        "deploy",
    ),
    Command(
        "roll_back",
        "Roll back phase",
        "R",
        "R",
        "Make the release before serve again, after a question.",
        can_roll_back,
    ),
    Command(
        "create_phase", "Create phase", "n", "n", "Make a phase: number, domains, quantization.", need_store, "new"
    ),
    Command(
        "add_domain",
        "Add domain to phase",
        "a",
        "a",
        "To be trained here, or with an adapter from elsewhere.",
        need_phase,
        "add",
    ),
    Command("introduce_domain", "New domain in the catalogue", "D", "D", INTRODUCE, need_store),
    Command("remove_domain", "Remove domain from phase", "x", "x", REMOVE, can_remove),
    Command(
        "advance", "Advance to next phase", "A", "A", "Make the next phase the current one, once deployed.", need_phase
    ),
    Command("start_runner", "Start the runner", "S", "S", RUNNER, can_start_runner),
    Command("service", "Start with the machine", "W", "W", SERVICE, need_store),
    Command("route_text", "Where a message would go", "w", "w", ROUTE, need_store),
    Command("ask", "Ask in the chat", "i", "i", "Go to the chat's question line.", can_ask, "ask"),
    Command(
        "stop_answer", "Stop the answer", "f8", "Esc F8", "Stop the answer being made; Esc in the chat.", is_generating
    ),
    Command("force_domain", "Chat: routed or selected domain", "f,f6", "f F6", FORCE, can_force),
    Command("next_bundle", "Chat: next release or bundle", "v,f7", "v F7", "Talk to another of the phase's.", can_ask),
    Command("talk", "Talk to what is selected", "I", "I", TALK, need_phase),
    Command("talk_artifact", "Talk to an artifact", "C", "C", ARTIFACT, need_store),
    Command("prefer", "Chat: speed or quality", "e,f9", "e F9", PREFER),
    Command("smoke", "Smoke test", "T", "T", SMOKE, can_measure),
    Command("history", "Show chat history", "H", "H", HISTORY),
    Command("erase_history", "Erase chat history", "X", "X", ERASE),
    Command("details", "Show details", "enter", "Enter", DETAILS, need_store),
    Command("plan", "Show plan", "P", "P", PLAN, can_build),
    Command("recommend", "Recommend a type", "o", "o", RECOMMEND, can_build),
    Command("compare", "Compare models", "M", "M", COMPARE, can_build),
    Command("measure", "Measure models", "m", "m", MEASURE, can_measure),
    Command("export", "Export domain", "E", "E", EXPORT, can_force),
    Command("checkpoints", "Show checkpoints", "K", "K", CHECKPOINTS, can_force),
    Command("filter", "Filter this pane", "slash", "/", FILTER, always, "filter"),
    Command(
        "copy", "Copy", "y", "y", "The selected row, the log on view or the last answer, by OSC 52.", always, "copy"
    ),
    Command("dashboard", "Dashboard", "1,f2", "1 F2", "Phases, domains, log and chat."),
    Command("jobs", "Jobs", "2,f3", "2 F3", "All jobs, over the log of the selected one.", always, "jobs"),
    Command("logs", "Log, full screen", "3,f4", "3 F4", "The log of the selected job."),
    Command("chat", "Chat, full screen", "4,f5", "4 F5", "The chat."),
    Command("help", "Help", "question_mark,f1", "? F1", "What the focused pane shows, and all keys."),
    Command("palette", "Commands", "ctrl+p,colon", "^p :", "Find any command by its name."),
    Command("quit", "Quit", "q,ctrl+q", "q", "Leave the console. Jobs go on."),
)
BY_ID = {command.id: command for command in COMMANDS}


def bindings() -> list[Binding]:
    """One binding a key; those that never stand for text also work while one is typed."""
    found = []
    for command in COMMANDS:
        for key in command.key.split(","):
            priority = key.startswith("ctrl+") or (key[0] == "f" and key[1:].isdigit())
            found.append(Binding(key, f"command({command.id!r})", command.title, show=False, priority=priority))
    return found


def help_lines() -> list[str]:
    """All keys with what they do."""
    return [f"{command.shown:<7} {command.title}: {command.help}" for command in COMMANDS]
