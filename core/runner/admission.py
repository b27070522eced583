"""Which queued jobs may start now: pure functions over what jobs need, what running ones have taken, and what is free.

A job needs a slot (heavy or light), memory, disk, and for some a device of its own. Memory that a running job has been
promised and not yet taken is not free. Two jobs that make the same thing never run together. A job that waits for
memory, disk or a device is overtaken by others only for a while: after `patience_s` nothing younger that takes of what
it waits for is started before it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

HEAVY, LIGHT = "heavy", "light"


@dataclass(frozen=True)
class Need:
    """What a job will take at its peak, in bytes. `device`: it computes on a device where the machine has one, where it
    takes `device_memory` of that and `beside_device` of the machine's memory. `measured`: the memory is that of earlier
    runs of the same kind and size, not an estimate. `scratch`: so much of the disk is free again at its end."""

    memory: int = 0
    disk: int = 0
    device_memory: int = 0
    beside_device: int = 0
    device: bool = False
    measured: bool = False
    scratch: int = 0

    @property
    def left(self) -> int:
        """Bytes of the disk that it leaves filled."""
        return self.disk - self.scratch


def most_disk(needs: Iterable[Need]) -> int:
    """The most that jobs take of the disk, one after the other: what those before left, and the whole of one."""
    left = most = 0
    for need in needs:
        most = max(most, left + need.disk)
        left += need.left
    return most


@dataclass(frozen=True)
class Waiting:
    """A queued job whose dependencies succeeded. `waited_s`: since when something it needs was lacking; `makes`: the
    place of its result; `shrinks`: it can be run in less memory than its need says, and finds out by itself."""

    id: int
    heavy: bool
    need: Need
    waited_s: float = 0.0
    makes: str | None = None
    shrinks: bool = False
    let_in: bool = False  # a person said to start it whatever its need


@dataclass(frozen=True)
class Running:
    """A job with processes: what it was promised, what of the memory it holds now, and the device it has."""

    id: int
    heavy: bool
    need: Need
    held: int = 0
    device: str | None = None
    makes: str | None = None


@dataclass(frozen=True)
class Device:
    """A device by the name that CUDA_VISIBLE_DEVICES takes; bytes."""

    uuid: str
    total: int
    free: int


@dataclass(frozen=True)
class Room:
    """What there is. Memory and disk are free bytes without the reserves; `memory_of` says what sets the limit."""

    memory: int
    disk: int
    memory_of: str = "the machine's available memory"
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Slots:
    """How many jobs may run at once. Jobs with a device of their own are bounded by the devices instead."""

    heavy: int
    light: int


@dataclass(frozen=True)
class Start:
    """A job to start, with the device it gets."""

    id: int
    device: str | None = None


@dataclass(frozen=True)
class Decision:
    """Which jobs start, in order, and why each other one that has its turn waits."""

    start: tuple[Start, ...] = ()
    waits: Mapping[int, str] = field(default_factory=dict)


def admit(
    queue: Sequence[Waiting], running: Sequence[Running], room: Room, slots: Slots, *, patience_s: float
) -> Decision:
    """Go over the queue (most urgent first) and start what fits beside what runs."""
    there = _There(running, room, slots)
    start: list[Start] = []
    waits: dict[int, str] = {}
    held_back: str | None = None  # a job that waited too long: what it lacks is kept for it
    for job in queue:
        on_device = job.need.device and bool(room.devices)
        if not on_device and there.slots[HEAVY if job.heavy else LIGHT] <= 0:
            continue
        if job.makes is not None and job.makes in there.made:
            continue
        lacking = there.lacks(job, on_device, alone=not (running or start))
        if held_back is not None and (job.need.memory or job.need.disk or on_device):
            # What waits behind an old job takes nothing that the old one is waiting for.
            lacking = held_back
        if lacking is not None and not job.let_in:
            waits[job.id] = lacking
            if job.waited_s >= patience_s and held_back is None and (running or start):
                held_back = f"waits its turn: job {job.id} has waited longer for room"
            continue
        start.append(Start(job.id, there.take(job, on_device)))
    return Decision(tuple(start), waits)


class HasSlot(Protocol):
    """A job that takes a slot, or a device in its place."""

    @property
    def heavy(self) -> bool:
        """Whether its slot is a heavy one."""

    @property
    def device(self) -> str | None:
        """The device it has."""


def free_slots(running: Iterable[HasSlot], slots: Slots) -> dict[str, int]:
    """How many slots of each weight are left beside running jobs; below 0 where the settings were lowered."""
    free = {HEAVY: slots.heavy, LIGHT: slots.light}
    for one in running:
        if one.device is None:
            free[HEAVY if one.heavy else LIGHT] -= 1
    return free


def _memory_of(need: Need, on_device: bool) -> int:
    return need.beside_device if on_device else need.memory


class _There:
    """What is still free while a queue is gone over."""

    def __init__(self, running: Sequence[Running], room: Room, slots: Slots) -> None:
        taken = {one.device for one in running if one.device is not None}
        self.slots = free_slots(running, slots)
        self.made = {one.makes for one in running if one.makes is not None}
        promised = (_memory_of(one.need, one.device is not None) - one.held for one in running)
        self.memory = room.memory - sum(max(0, owed) for owed in promised)
        self.disk = room.disk - sum(one.need.disk for one in running)
        self.memory_of = room.memory_of
        self.devices = [device for device in room.devices if device.uuid not in taken]
        self.all_devices = room.devices

    def lacks(self, job: Waiting, on_device: bool, *, alone: bool) -> str | None:
        """What is missing for a job, with the figures; None where it fits. One that can be run smaller is not kept
        waiting where waiting would bring nothing: for memory while it is alone, for more than the largest device has.
        """
        need, memory = job.need, _memory_of(job.need, on_device)
        if need.disk > self.disk:
            return (
                f"waits for disk space: it takes about {_mb(need.disk)} (estimated), {_mb(self.disk)} are free for it"
            )
        if memory > self.memory and not (alone and job.shrinks):
            how = "as measured before" if need.measured else "estimated"
            return (
                f"waits for memory: it takes about {_mb(memory)} ({how}), {_mb(self.memory)} are free for it"
                f" ({self.memory_of})"
            )
        return self._lacks_device(job) if on_device else None

    def _lacks_device(self, job: Waiting) -> str | None:
        if self._device_for(job.need) is not None:
            return None
        if not self.devices:
            return f"waits for a device: each of the {len(self.all_devices)} has a job"
        takes = f"it takes about {_mb(job.need.device_memory)} (estimated)"
        largest = max(device.total for device in self.all_devices)
        if job.need.device_memory > largest:
            return None if job.shrinks else f"waits for a device: {takes}, the largest has {_mb(largest)}"
        free = max(device.free for device in self.devices)
        return f"waits for a device: {takes}, {_mb(free)} are free on the emptiest"

    def take(self, job: Waiting, on_device: bool) -> str | None:
        """Give a job what it needs; the device it got."""
        self.memory -= _memory_of(job.need, on_device)
        self.disk -= job.need.disk
        if job.makes is not None:
            self.made.add(job.makes)
        device = (self._device_for(job.need) or self._emptiest()) if on_device else None
        if device is None:
            self.slots[HEAVY if job.heavy else LIGHT] -= 1
            return None
        self.devices.remove(device)
        return device.uuid

    def _device_for(self, need: Need) -> Device | None:
        emptiest = self._emptiest()
        return emptiest if emptiest is not None and emptiest.free >= need.device_memory else None

    def _emptiest(self) -> Device | None:
        return max(self.devices, key=lambda device: device.free, default=None)


def _mb(size: int) -> str:
    return f"{max(0, size) / 1e6:.0f} MB"
