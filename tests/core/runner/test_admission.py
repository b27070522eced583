"""Which jobs start: what fits beside what runs, a device each, and nobody waits for ever."""

import random

import pytest

from core.runner.admission import Decision, Device, Need, Room, Running, Slots, Start, Waiting, admit

GB = 10**9
SLOTS = Slots(heavy=2, light=3)


def chosen(queue: list[Waiting], running: list[Running], room: Room, slots: Slots = SLOTS) -> Decision:
    return admit(queue, running, room, slots, patience_s=60.0)


def started(decision: Decision) -> list[int]:
    return [start.id for start in decision.start]


def test_what_fits_starts_in_order_and_light_ones_beside_a_heavy_one() -> None:
    queue = [Waiting(1, True, Need(2 * GB)), Waiting(2, True, Need(2 * GB)), Waiting(3, True, Need(0))]
    queue += [Waiting(number, False, Need(10**8)) for number in range(4, 9)]
    decision = chosen(queue, [], Room(8 * GB, 8 * GB))
    assert started(decision) == [1, 2, 4, 5, 6]
    assert decision.waits == {}  # those without a slot wait for their turn, not for room


def test_memory_promised_and_not_yet_taken_is_not_free() -> None:
    job = Waiting(2, True, Need(3 * GB))
    room = Room(4 * GB, GB, "the memory limit of this process's control group")
    # It was promised 3 GB and holds 1: of the 4 GB that are free now, 2 are its own.
    decision = chosen([job], [Running(1, True, Need(3 * GB), held=GB)], room)
    assert decision.waits == {
        2: "waits for memory: it takes about 3000 MB (estimated), 2000 MB are free for it"
        " (the memory limit of this process's control group)"
    }
    assert started(chosen([job], [Running(1, True, Need(3 * GB), held=3 * GB)], room)) == [2]
    assert started(chosen([job], [Running(1, True, Need(3 * GB), held=9 * GB)], room)) == [2]  # more than it said


def test_two_that_fit_alone_do_not_start_together() -> None:
    queue = [Waiting(1, True, Need(3 * GB)), Waiting(2, True, Need(3 * GB, measured=True))]
    decision = chosen(queue, [], Room(4 * GB, GB))
    assert started(decision) == [1]
    assert "as measured before" in decision.waits[2]


def test_disk_is_counted_too() -> None:
    queue = [Waiting(1, False, Need(disk=3 * GB)), Waiting(2, False, Need(disk=3 * GB)), Waiting(3, False, Need())]
    decision = chosen(queue, [Running(9, False, Need(disk=GB))], Room(GB, 5 * GB))
    assert started(decision) == [1, 3]
    assert decision.waits[2].startswith("waits for disk space: it takes about 3000 MB (estimated), 1000 MB")


def test_an_old_job_is_overtaken_only_for_a_while() -> None:
    running = [Running(9, True, Need(3 * GB), held=3 * GB)]
    room = Room(2 * GB, GB)
    young = Waiting(2, True, Need(GB))
    assert started(chosen([Waiting(1, True, Need(4 * GB), waited_s=59), young], running, room)) == [2]
    decision = chosen([Waiting(1, True, Need(4 * GB), waited_s=60), young], running, room)
    assert started(decision) == []
    assert decision.waits[2] == "waits its turn: job 1 has waited longer for room"
    # What takes nothing that the old one waits for is not held back.
    assert started(chosen([Waiting(1, True, Need(4 * GB), waited_s=60), Waiting(3, False, Need())], running, room)) == [
        3
    ]


def test_one_that_can_run_smaller_starts_where_waiting_for_memory_brings_nothing() -> None:
    big = Need(100 * GB)
    queue = [Waiting(1, True, big, shrinks=True), Waiting(2, True, big, shrinks=True)]
    decision = chosen(queue, [], Room(4 * GB, GB))
    assert started(decision) == [1]  # alone; beside it the next one waits
    assert decision.waits[2].startswith("waits for memory")
    assert started(chosen(queue[:1], [Running(9, False, Need())], Room(4 * GB, GB))) == []
    short_of_disk = Waiting(1, True, Need(100 * GB, disk=2 * GB), shrinks=True)
    assert chosen([short_of_disk], [], Room(4 * GB, GB)).waits[1].startswith("waits for disk space")


def test_two_that_make_the_same_never_run_together() -> None:
    room, same = Room(GB, GB), "releases/phase-1"
    queue = [Waiting(1, False, Need(), makes=same), Waiting(2, False, Need(), makes=same), Waiting(3, False, Need())]
    assert started(chosen(queue, [], room)) == [1, 3]
    running = [Running(1, False, Need(), makes=same)]
    assert started(chosen(queue[1:], running, room)) == [3]
    assert chosen(queue[1:], running, room).waits == {}  # it waits for its turn, not for room


def test_only_memory_is_said_to_be_measured() -> None:
    measured = Need(5 * GB, 5 * GB, measured=True)
    assert "as measured before" in chosen([Waiting(1, True, measured)], [], Room(GB, 9 * GB)).waits[1]
    assert "(estimated)" in chosen([Waiting(1, True, measured)], [], Room(9 * GB, GB)).waits[1]


def test_beside_a_device_a_job_takes_less_of_the_machines_memory() -> None:
    need = Need(100 * GB, device_memory=60 * GB, beside_device=2 * GB, device=True)
    devices = (Device("GPU-a", 80 * GB, 80 * GB), Device("GPU-b", 80 * GB, 80 * GB))
    queue = [Waiting(1, True, need), Waiting(2, True, need)]
    assert started(chosen(queue, [], Room(3 * GB, GB, devices=devices))) == [1]
    taken = [Running(1, True, need, held=2 * GB, device="GPU-a")]
    assert started(chosen(queue[1:], taken, Room(3 * GB, GB, devices=devices))) == [2]
    assert started(chosen(queue, [], Room(3 * GB, GB))) == []  # without a device it takes all of it


def test_one_that_never_fits_holds_up_nobody() -> None:
    queue = [Waiting(1, True, Need(100 * GB), waited_s=9999), Waiting(2, True, Need(GB))]
    assert started(chosen(queue, [], Room(4 * GB, GB))) == [2]


def test_a_person_may_let_one_in() -> None:
    queue = [Waiting(1, True, Need(100 * GB), let_in=True)]
    assert started(chosen(queue, [], Room(4 * GB, GB))) == [1]
    assert started(chosen(queue, [], Room(4 * GB, GB), Slots(0, 0))) == []  # a slot it needs all the same


def test_devices_are_given_one_each_the_emptiest_first() -> None:
    room = Room(99 * GB, GB, devices=(Device("GPU-a", 80 * GB, 10 * GB), Device("GPU-b", 80 * GB, 70 * GB)))
    need = Need(GB, device_memory=8 * GB, device=True)
    queue = [Waiting(number, True, need) for number in (1, 2, 3)]
    decision = chosen(queue, [], room, Slots(heavy=1, light=1))  # slots do not bound what has a device of its own
    assert decision.start == (Start(1, "GPU-b"), Start(2, "GPU-a"))
    assert decision.waits == {3: "waits for a device: each of the 2 has a job"}
    taken = [Running(9, True, need, held=GB, device="GPU-b")]
    assert chosen(queue[:1], taken, room).start == (Start(1, "GPU-a"),)
    assert started(chosen([Waiting(7, True, Need(GB))], taken, room, Slots(heavy=1, light=1))) == [7]


def test_what_other_programs_hold_of_a_device_is_taken() -> None:
    room = Room(99 * GB, GB, devices=(Device("GPU-a", 80 * GB, 5 * GB),))
    decision = chosen([Waiting(1, True, Need(device_memory=8 * GB, device=True))], [], room)
    assert decision.waits == {
        1: "waits for a device: it takes about 8000 MB (estimated), 5000 MB are free on the emptiest"
    }
    assert started(chosen([Waiting(1, True, Need(device_memory=99 * GB, device=True), shrinks=True)], [], room)) == [1]
    decision = chosen([Waiting(1, True, Need(device_memory=99 * GB, device=True))], [], room)
    assert decision.waits == {1: "waits for a device: it takes about 99000 MB (estimated), the largest has 80000 MB"}


def test_without_devices_such_jobs_are_ordinary_heavy_ones() -> None:
    need = Need(GB, device_memory=8 * GB, device=True)
    decision = chosen([Waiting(1, True, need), Waiting(2, True, need)], [], Room(9 * GB, GB), Slots(1, 1))
    assert decision.start == (Start(1, None),)


def taken(need: Need, device: str | None) -> int:
    return need.memory if device is None else need.beside_device


@pytest.mark.parametrize("seed", range(200))
def test_whatever_comes_nothing_is_given_twice_and_all_get_through(seed: int) -> None:
    """A random queue on a random machine, run to its end: promises never exceed what is there, and everything that
    fits an empty machine is run."""
    order = random.Random(seed)
    memory, disk = order.randint(2, 16) * GB, order.randint(2, 16) * GB
    devices = tuple(Device(f"GPU-{number}", 24 * GB, 24 * GB) for number in range(order.randint(0, 3)))
    slots = Slots(order.randint(1, 3), order.randint(1, 3))
    queue = [
        Waiting(
            number,
            order.random() < 0.6,
            Need(
                order.randint(0, memory // GB) * GB,
                order.randint(0, disk // GB) * GB,
                order.randint(0, 24) * GB,
                order.randint(0, memory // GB) * GB,
                device=order.random() < 0.3,
            ),
            waited_s=order.choice((0.0, 100.0)),
            makes=order.choice((None, "a", "b")),
        )
        for number in range(1, 21)
    ]
    running: list[Running] = []
    done: list[int] = []
    for _ in range(200):
        free = memory - sum(one.held for one in running)
        decision = admit(queue, running, Room(free, disk, devices=devices), slots, patience_s=60.0)
        by_number = {job.id: job for job in queue}
        for start in decision.start:
            job = by_number[start.id]
            held = order.randint(0, taken(job.need, start.device))
            running.append(Running(job.id, job.heavy, job.need, held, start.device, job.makes))
        queue = [job for job in queue if job.id not in started(decision)]
        assert sum(taken(one.need, one.device) for one in running) <= memory
        assert sum(one.need.disk for one in running) <= disk
        for given in ([one.device for one in running if one.device], [one.makes for one in running if one.makes]):
            assert len(given) == len(set(given))
        assert sum(one.heavy and one.device is None for one in running) <= slots.heavy
        assert sum(not one.heavy and one.device is None for one in running) <= slots.light
        if not running:
            break
        over = order.choice(running)
        running.remove(over)
        done.append(over.id)
    assert queue == []
    assert sorted(done) == list(range(1, 21))
