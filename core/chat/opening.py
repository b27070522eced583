"""A conversation as a workspace's settings have it."""

from collections.abc import Collection

from core.catalog.guidance import GuidanceRules
from core.catalog.model import Settings
from core.chat.client import Engine
from core.chat.health import Health
from core.chat.memory import Memory
from core.chat.preference import Preference, preference
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation
from core.chat.subject import Subject
from core.routing.data import own_resources


def open_conversation(
    subject: Subject,
    settings: Settings,
    prefer: Preference | None = None,
    sampling: SamplingOptions | None = None,
    memory: Memory | None = None,
    kept: Collection[str] | None = None,
    rules: GuidanceRules | None = None,
) -> Conversation:
    """A conversation within the settings' limits of memory and time; `prefer` and `sampling` as the settings and the
    preference have them where none are given; `kept` and `rules` as for `Conversation`."""
    liking = prefer or preference(settings.chat_prefer)
    subject.router.use(settings.encoder)
    if (resources := own_resources(settings)) is not None:
        subject.router.use_resources(resources)
    engine = Engine(
        subject.holdings,
        n_ctx=liking.context,
        budget=settings.chat_memory_mb * 10**6 or None,
        limit_s=float(settings.chat_limit_s),
        health=Health(float(settings.chat_cooldown_s)),
    )
    return Conversation(
        subject,
        engine=engine,
        sampling=sampling,
        kept=kept,
        rules=rules,
        prefer=liking,
        memory=memory,
        consensus_limit_s=float(settings.consensus_limit_s),
    )
