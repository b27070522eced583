"""Where a message goes: content, emotion, speed and quality, behind a crisis gate. No model is loaded here."""

from core.routing.data import build_routing_data, load_routing_data
from core.routing.desk import Desk
from core.routing.explain import explain, headline
from core.routing.router import Candidate, Decision, Router

__all__ = [
    "Candidate",
    "Decision",
    "Desk",
    "Router",
    "build_routing_data",
    "explain",
    "headline",
    "load_routing_data",
]
