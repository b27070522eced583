"""A workspace that is only made up: the console's tests and its demonstration change it and look at the screen."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from core.errors import BelowThreshold, InvalidInput, Refused, SettingsChanged, TaraError
from core.store.views import DomainView, JobView, Measurement, PhaseView, ReleaseView, Snapshot
from tara_tui.backend import Bundle, ChatEvent, Done, Routed, Service, Token
from tara_tui.build_form import asked_of

NOW = 1_800_000_000.0


def make_job(id: int, **changes: object) -> JobView:
    """A job that trains business, with changes."""
    job = JobView(
        id=id, kind="train", title=f"train job {id}", state="queued", key="k" * 64, phase=1, domain=None, attempt=1,
        priority=0, created_at=time.time() - 600, started_at=None, ended_at=None, step=None, total=None, unit="step",
        message="", rate=None, eta_s=None,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def measurement(name: str, value: float, method: str = "held-out token accuracy, 40 examples, seed 7") -> Measurement:
    """A figure measured at a fixed time."""
    return Measurement(name, value, method, NOW, n=412)


def make_snapshot() -> Snapshot:
    """Two phases: a deployed one with three domains in different states, and one that is only planned."""
    started = time.time() - 240
    running = make_job(
        12, title="train business", state="running", domain="business", started_at=started, step=140, total=400,
        rate=0.58, eta_s=448, metrics={"loss": 1.2345, "tokens_per_s": 91.0}, run_dir="runs/12",
    )  # fmt: skip
    failed = make_job(
        9, title="train healthcare", state="failed", domain="healthcare", started_at=started - 900,
        ended_at=started - 600, error="out of memory: 6.1 GB were needed, 4.0 GB are free",
        hint="choose the preset small", exit_code=1, run_dir="runs/9",
    )  # fmt: skip
    done = make_job(
        7, title="evaluate education", kind="evaluate", state="succeeded", domain="education",
        started_at=started - 2000, ended_at=started - 1900, run_dir="runs/7",
    )  # fmt: skip
    waiting = make_job(13, title="package phase 1", kind="package", depends_on=(12,))
    domains = (
        DomainView("business", 1, "training", False, "smollm2", running, None),
        DomainView(
            "education", 1, "complete", False, "smollm2", done, "artifacts/adapter/education-1a2b3c4d",
            {one.name: one for one in (measurement("base_loss", 2.312), measurement("tuned_loss", 1.204),
                                       measurement("quality", 0.6123))},
        ),
        DomainView("healthcare", 1, "failed", False, "smollm2", failed, None),
        DomainView("legal", 1, "complete", True, "smollm2", None, None,
                   {"quality": Measurement("quality", 0.9, "declared", NOW)}),
    )  # fmt: skip
    releases = (
        ReleaseView(2, 1, 2, "releases/phase-1", True, NOW, "artifacts/bundle/phase-1-22222222", 98_000_000),
        ReleaseView(1, 1, 1, "releases/phase-1", False, NOW - 9e4, "artifacts/bundle/phase-1-11111111", 97_000_000),
    )
    first = PhaseView(
        1, "training", True, "Q4_K_M", "standard", None, None, False, NOW, domains, releases,
        "artifacts/bundle/phase-1-22222222", 98_000_000, 271_000_000,
        measurement("compression_ratio", 2.77), "build-phase 1 goes on from here",
    )  # fmt: skip
    second = PhaseView(
        2, "planning", False, "Q5_K_M", "standard", None, None, False, NOW,
        (DomainView("travel", 2, "pending", False, "smollm2", None, None),), (),
    )  # fmt: skip
    return Snapshot(1, (first, second), (waiting, running, failed, done), 4242, NOW)


class FakeChat:
    """Says words one by one. `hold` makes it wait before the third, until it is cancelled or let go."""

    def __init__(self, words: list[str], hold: bool) -> None:
        self.words = words
        self.cancelled = threading.Event()
        self.closed = threading.Event()
        self.go = threading.Event()
        self.questions: list[tuple[str, str | None]] = []
        self.prepared: list[str | None] = []
        self.preferences: list[str] = []
        self.before: list[ChatEvent] = []  # said after the second word
        self.pause_s = 0.0
        self.failure: Exception | None = None  # what the next question ends in, once
        self.unprepared: TaraError | None = None  # what the next preparation ends in, once
        if not hold:
            self.go.set()

    def ask(self, question: str, domain: str | None) -> Iterator[ChatEvent]:
        """A question's events."""
        self.questions.append((question, domain))
        self.cancelled.clear()
        line = f"{domain} (chosen by you)" if domain else "business (82%: many of its words)"
        yield Routed(domain or "business", line, (line, "urgency none, complexity 0.10, no emotion found"))
        said = 0
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        for word in self.words:
            if said == 2:
                while not self.go.wait(0.01) and not self.cancelled.is_set() and not self.closed.is_set():
                    pass
            if self.cancelled.wait(self.pause_s) or self.closed.is_set():
                break
            said += 1
            yield Token(word)
            if said == 2:
                yield from self.before
        yield Done(said, 31.4, "cancelled" if self.cancelled.is_set() else "stop")

    def prepare(self, domain: str | None) -> None:
        """Remember it."""
        unprepared, self.unprepared = self.unprepared, None
        if unprepared is not None:
            raise unprepared
        self.prepared.append(domain)

    def prefer(self, name: str) -> str:
        """Remember it."""
        self.preferences.append(name)
        return f"prefer {name}"

    def forget_person(self) -> None:
        """Remember it."""
        self.preferences.append("forgotten")

    def stats(self) -> str:
        """A line."""
        return "caches: answers 1 of 3"

    def cancel(self) -> None:
        """Stop the answer."""
        self.cancelled.set()

    def close(self) -> None:
        """End the engine."""
        self.closed.set()


class FakeBackend:
    """Remembers wishes; `put` changes what the store says."""

    def __init__(self, root: Path, snapshot: Snapshot | None = None) -> None:
        self.root = root
        self.current = snapshot or make_snapshot()
        self.wishes: list[tuple[object, ...]] = []
        self.error: Exception | None = None
        self.reading_error: Exception | None = None
        self.settings_changed: SettingsChanged | None = None
        self.below: BelowThreshold | None = None
        self.words = ["Hello ", "there, ", "this ", "is ", "an ", "answer."]
        self.hold = False
        self.said: list[ChatEvent] = []
        self.chats: list[FakeChat] = []
        self.opened: list[Bundle] = []
        self.readers = 0
        self.chat_pause_s = 0.0
        (root / "runs").mkdir(parents=True, exist_ok=True)
        self.write_log(12, "".join(f"step {n}/400 loss {3 - n / 100:.3f}\n" for n in range(1, 141)))
        self.write_log(9, "loading the base\nTraceback: out of memory\n")

    def write_log(self, job_id: int, text: str) -> Path:
        """Append to a job's log."""
        path = self.root / "runs" / str(job_id) / "log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(text)
        return path

    def put(self, snapshot: Snapshot) -> None:
        """Make the store say this from now on."""
        self.current = replace(snapshot, version=self.current.version + 1)

    def open_reader(self) -> "FakeBackend":
        """It reads itself."""
        self.readers += 1
        return self

    def snapshot(self, jobs: int = 200) -> Snapshot:
        """What the store says."""
        if self.reading_error is not None:
            raise self.reading_error
        return self.current

    def changed(self) -> bool:
        """Always: the feed compares."""
        return True

    def close(self) -> None:
        """Nothing to let go."""

    def domain_names(self) -> list[str]:
        """What the made-up catalog has."""
        return ["business", "education", "healthcare", "legal", "travel"]

    def _wish(self, *what: object) -> str:
        self.wishes.append(what)
        if self.error is not None:
            raise self.error
        return f"done: {' '.join(map(str, what))}"

    def build_phase(self, number: int, unfinished: str | None = None, reason: str = "") -> str:
        """Remember it."""
        self._judge(reason)
        return self._wish("build", number, reason) if reason else self._training("build", number, unfinished)

    def build_as(self, number: int, values: dict[str, str], reason: str = "") -> str:
        """Remember it."""
        asked = asked_of(values, reason)
        self._judge(reason)
        return self._wish("build as", number, asked)

    def _judge(self, reason: str) -> None:
        if self.below is not None and not reason:
            raise self.below

    def train_domain(self, domain: str, unfinished: str | None = None) -> str:
        """Remember it."""
        return self._training("train", domain, unfinished)

    def _training(self, what: str, of: int | str, unfinished: str | None) -> str:
        if self.settings_changed is not None and unfinished is None:
            raise self.settings_changed
        return self._wish(what, of, *([unfinished] if unfinished is not None else []))

    def checkpoints(self, domain: str) -> list[str]:
        """Those of business."""
        return ["business-1a2b3c4d: step 40 of 120, 12M", "  goes on: from step 40"] if domain == "business" else []

    def plan_phase(self, number: int) -> list[str]:
        """More lines than a small screen has."""
        self.wishes.append(("plan", number))
        return ["memory", *(f" job {n} of phase {number}  1.2G e  12M  3m p  fits" for n in range(40)), " the end"]

    def plan_domain(self, domain: str) -> list[str]:
        """One line."""
        self.wishes.append(("plan", domain))
        return [f" train {domain}  1.2G m  12M  3m m  fits"]

    def phase_outcome(self, number: int) -> list[str]:
        """A sentence and a table; of phase 2 nothing that can be read."""
        if number == 2:
            raise InvalidInput("the store cannot be read", "try again")
        return [
            " verification, answers that passed: healthcare 3 of 3",
            "held-out loss  sparse",
            " healthcare      2.310",
        ]

    def compare_phase(self, number: int, others: str) -> list[str]:
        """One figure of two models; no other that is a word."""
        self._wish("compare", number, others)
        if others.isalpha():
            raise InvalidInput(f"there is no artifact {others}", "give a number, a path or phase:N")
        return ["figure  base-F16  base-Q4_K_M", " size    271 MB    105 MB"]

    def recommend_phase(self, number: int, target: str, quality: str, memory: str, speed: str) -> list[str]:
        """One way; no target that is a word."""
        self._wish("recommend", number, target, quality, memory, speed)
        if target and not target.isdigit():
            raise Refused(f"no target {target}", "a number")
        return [f"phase {number}: files of at most {target} MB", " > Q4_K_M hybrid", " to build it: tara build-phase"]

    def export_domain(self, domain: str, quantization: str) -> str:
        """Remember it."""
        return self._wish("export", domain, quantization)

    def measure_phase(self, number: int) -> str:
        """Remember it."""
        return self._wish("measure", number)

    def cancel_job(self, job_id: int) -> str:
        """Remember it."""
        return self._wish("cancel", job_id)

    def pause_job(self, job_id: int) -> str:
        """Remember it."""
        return self._wish("pause", job_id)

    def resume_job(self, job_id: int) -> str:
        """Remember it."""
        return self._wish("resume", job_id)

    def revive_runner(self) -> str:
        """Remember it."""
        return self._wish("revive")

    def retry_job(self, job_id: int) -> str:
        """Remember it."""
        return self._wish("retry", job_id)

    def let_in_job(self, job_id: int) -> str:
        """Remember it."""
        return self._wish("let in", job_id)

    def service(self) -> Service:
        """What was wished for last."""
        installed = ("install service",) in self.wishes and ("remove service",) not in self.wishes
        return Service(installed, ("installed: cron" if installed else "installed: nothing", "after a restart: no"))

    def install_service(self) -> str:
        """Remember it."""
        return self._wish("install service")

    def remove_service(self) -> str:
        """Remember it."""
        return self._wish("remove service")

    def deploy_phase(self, number: int, target: str, reason: str) -> str:
        """Remember it."""
        self._judge(reason)
        return self._wish("deploy", number, target, reason)

    def rollback_phase(self, number: int, version: int, target: str) -> str:
        """Remember it."""
        return self._wish("rollback", number, version, target)

    def create_phase(
        self, number: int, domains: list[str], quantization: str, compression: str = "", target_mb: float | None = None
    ) -> str:
        """Remember it; a name that is unknown is refused."""
        if unknown := set(domains) - set(self.domain_names()):
            raise Refused(f"no domain {sorted(unknown)[0]}", "see configs/")
        return self._wish("create", number, *domains, quantization, *([compression, target_mb] if compression else []))

    def add_domain(self, number: int, domain: str, adapter: str) -> str:
        """Remember it."""
        return self._wish("add", number, domain, adapter)

    def introduce_domain(self, name: str, examples: str, description: str, keywords: list[str]) -> str:
        """Remember it; without examples the rest is needed."""
        if not examples and not (description and keywords):
            raise InvalidInput("a domain needs a description and keywords, or examples to take them from")
        return self._wish("introduce", name, examples, description, *keywords)

    def route_text(self, number: int | None, text: str) -> list[str]:
        """As if the second domain were the one."""
        return [f"education ({text})", f"  among those of {number}"]

    def remove_domain(self, number: int, domain: str) -> str:
        """Remember it."""
        return self._wish("remove", number, domain)

    def advance_phase(self) -> str:
        """Refuse it."""
        raise TaraError("phase 1 is training, not deployed", "deploy it first")

    def start_runner(self) -> str:
        """Remember it."""
        return self._wish("runner")

    def open_chat(self, bundle: Bundle) -> FakeChat:
        """A chat that says `words`."""
        chat = FakeChat(self.words, self.hold)
        chat.pause_s = self.chat_pause_s
        chat.before = self.said
        self.chats.append(chat)
        self.opened.append(bundle)
        return chat

    def artifacts(self) -> list[Bundle]:
        """A model and an adapter."""
        return [
            Bundle("artifacts/gguf-adapter/legal-1a2b3c4d.gguf", "adapter legal-1a2b3c4d.gguf", file=True),
            Bundle("artifacts/gguf/base-Q4_K_M-5e6f7a8b.gguf", "model base-Q4_K_M-5e6f7a8b.gguf", file=True),
        ]

    def talk_of(self, domain: str | None, job_id: int | None) -> Bundle:
        """The adapter; job 12 made nothing yet."""
        self.wishes.append(("talk of", domain, job_id))
        if job_id == 12:
            raise Refused("job 12 made nothing one can talk to", "choose another")
        return self.artifacts()[0]

    def smoke_phase(self, number: int, domain: str | None) -> list[str]:
        """A report with one that failed."""
        self.wishes.append(("smoke", number, domain))
        return ["1 of 2 passed", " pass  business prices: 20 tokens", " FAIL  business invoice: 256 tokens"]

    def history(self) -> list[str]:
        """Two turns."""
        return ["me: 2 turns", " 2026-01-01 10:00  business: one", " 2026-01-01 10:01  base model: two"]

    def erase_history(self) -> str:
        """Remember it."""
        return self._wish("erase history")
