"""Where the cursor goes by itself: to the current phase at first, and to what a wish of this console made. Pure."""

from core.store.views import PhaseView, Snapshot


class Whereto:
    """What the console waits to see, and is to select once it is there."""

    def __init__(self) -> None:
        self._current: int | None = None  # the current phase as last seen
        self.follows_current = False  # a wish of this console moves on to the next phase
        self._made: tuple[int, str | None] | None = None

    def made(self, phase: int, domain: str | None = None) -> None:
        """A phase, or a domain in it, was just made here: what is pressed next is for it."""
        self._made = (phase, domain)

    def phase(self, snapshot: Snapshot) -> int | None:
        """The phase to select now; None where the cursor stays. It never goes to a phase that nobody chose, so that no
        key meets another one than was meant."""
        found = self._moved_on(snapshot)
        if self._made is not None and any(one.number == self._made[0] for one in snapshot.phases):
            found = self._made[0]
            if self._made[1] is None:
                self._made = None
        return found

    def domain(self, phase: PhaseView | None) -> str | None:
        """The domain of the selected phase to select now; None where the cursor stays."""
        if self._made is None or phase is None or self._made[0] != phase.number:
            return None
        name = self._made[1]
        if name is None or not any(one.name == name for one in phase.domains):
            return None
        self._made = None
        return name

    def _moved_on(self, snapshot: Snapshot) -> int | None:
        current = next((phase.number for phase in snapshot.phases if phase.current), None)
        if current is None or current == self._current:
            return None
        goes = self._current is None or self.follows_current
        self._current, self.follows_current = current, False
        return current if goes else None
