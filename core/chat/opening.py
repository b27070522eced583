"""A conversation as a workspace's settings have it."""

from core.catalog.model import Settings
from core.chat.client import Engine
from core.chat.memory import Memory
from core.chat.preference import Preference, preference
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation
from core.chat.subject import Subject


def open_conversation(
    subject: Subject,
    settings: Settings,
    prefer: Preference | None = None,
    sampling: SamplingOptions | None = None,
    memory: Memory | None = None,
) -> Conversation:
    """A conversation within the settings' limits of memory and time; `prefer` and `sampling` as the settings and the
    preference have them where none are given."""
    liking = prefer or preference(settings.chat_prefer)
    subject.router.use(settings.encoder)
    engine = Engine(
        subject.holdings,
        n_ctx=liking.context,
        budget=settings.chat_memory_mb * 10**6 or None,
        limit_s=float(settings.chat_limit_s),
    )
    return Conversation(
        subject,
        engine=engine,
        sampling=sampling,
        prefer=liking,
        memory=memory,
        consensus_limit_s=float(settings.consensus_limit_s),
    )
