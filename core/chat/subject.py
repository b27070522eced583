"""What one talks to: the models, what routes among them, and what each domain is told first."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.chat.holdings import Holdings
from core.deploy.manifest import has_general_model, read_manifest
from core.files import sha256_of
from core.routing import Decision, Desk
from core.routing.crisis import Crisis
from core.routing.emotion import EmotionReader
from core.routing.past import Past


class Routing(Protocol):
    """What chooses a domain for a message; `core.routing.Desk` does."""

    read_emotion: EmotionReader

    @property
    def weights(self) -> dict[str, float]:
        """The configured weights of the four terms."""

    @property
    def method(self) -> str:
        """By what messages are read: ENCODER or KEYWORDS of `core.routing.decision`."""

    def route(
        self,
        text: str,
        previous_domain: str | None = None,
        resident: Collection[str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        past: Past | None = None,
        previous: str | None = None,
        seconds: float | None = None,
        unavailable: Mapping[str, str] | None = None,
        crisis_before: Crisis | None = None,
    ) -> Decision:
        """Where a message goes. `previous` is the message before, `seconds` how long ago it was, `unavailable` domains
        that cannot answer now, each with the reason, `crisis_before` the crisis of the decision before."""

    def use(self, setting: str) -> None:
        """Take the sentence encoder that `routing.encoder` of the settings names."""

    def use_resources(self, resources: Mapping[str, str]) -> None:
        """Show these texts in a crisis from now on, by kind."""

    def start(self) -> None:
        """Start now what the first message would wait for."""

    def close(self) -> None:
        """End what it has started."""


@dataclass(frozen=True)
class Subject:
    """`general`: there is a model that answers for no domain in particular. `folder` is the release or bundle, or the
    file, and `routing_sha256` what routes, for keys."""

    name: str
    folder: Path
    holdings: Holdings
    router: Routing
    routing_sha256: str
    prompts: Mapping[str, str]  # system prompts by domain
    general: bool

    @classmethod
    def of_folder(cls, folder: Path) -> "Subject":
        """A release or bundle. Raises InvalidInput for another folder."""
        manifest = read_manifest(folder)
        routing = folder / manifest["routing"]["file"]
        prompts = {name: str(entry.get("system_prompt") or "") for name, entry in manifest["domains"].items()}
        router = Desk.open(routing)
        return cls(
            folder.name,
            folder,
            Holdings.of_folder(folder),
            router,
            sha256_of(routing),
            prompts,
            has_general_model(manifest),
        )
