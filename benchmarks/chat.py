"""What a switch of the domain costs in a chat, and that nothing leaks: `make bench-chat`.

Switch to first token, in one process that does nothing else: an adapter put on the resident base, beside the file of a
merged model loaded in the place of the one before (which is what one file a domain costs where they do not all fit in
memory). By the clock, and in seconds of computing, which other programs on the machine change less. The
same prompts (a domain's system prompt, and a question that is new each time, so that nothing of it was
evaluated before), the same file type, both from the page cache; the domains in random order. A copy of the base file
for each domain stands in for its merged model, unless `--merged` names a release built with `--merge exact`: merging
changes the values of the weights, not how many there are or how they are stored. Beside both, a merged model that is
resident already, which is as fast as can be and takes one model's memory a domain.

Then the soak (`tests/soak_chat.py`): 200 turns over the domains in random order. The last line is `RESULT ` and one
JSON object; the exit status is 1 where an answer differs from a fresh engine's, the memory grows, the killed engine
does not go on, or an adapter is no faster.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.chat.pool import idle_cores
from core.deploy.manifest import read_manifest
from core.gguf.runtime import Runtime
from tests.soak_chat import lines, soak

N_CTX = 1024


def first_token(runtime: Runtime, prompt: Sequence[dict[str, str]]) -> None:
    """Evaluate the prompt and make one token."""
    runtime.generate(runtime.render(prompt), max_tokens=1).finish()


class Stopwatch:
    """Seconds of each switch by the clock, and of computing."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.computing: list[float] = []

    def __enter__(self) -> None:
        self._began = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.clock.append(time.monotonic() - self._began[0])
        self.computing.append(time.process_time() - self._began[1])


def by_adapter(folder: Path, manifest: dict[str, Any], order: Sequence[str], threads: int) -> tuple[Stopwatch, float]:
    """The time of each switch to its first token, and the megabytes the process holds at its end."""
    (base,) = manifest["bases"].values()
    times = Stopwatch()
    with Runtime(folder / base["file"], n_ctx=N_CTX, threads=threads) as runtime:
        for number, name in enumerate((*sorted(manifest["domains"]), *order)):  # once each first: all are warm then
            entry = manifest["domains"][name]
            with times:
                runtime.attach(folder / entry["adapter"], base_sha256=base["base_sha256"])
                first_token(runtime, prompt_of(entry, number))
        return times, held()


def by_loading(
    files: dict[str, Path], manifest: dict[str, Any], order: Sequence[str], threads: int
) -> tuple[Stopwatch, float]:
    """The same where each switch frees the model before and loads the domain's file."""
    times = Stopwatch()
    for number, name in enumerate((*sorted(files), *order)):
        with times:
            runtime = Runtime(files[name], n_ctx=N_CTX, threads=threads)
            first_token(runtime, prompt_of(manifest["domains"][name], number))
        memory = held()
        runtime.close()
    return times, memory


def by_resident(
    files: dict[str, Path], manifest: dict[str, Any], order: Sequence[str], threads: int
) -> tuple[Stopwatch, float]:
    """The same where every domain's file stays loaded."""
    models = {name: Runtime(path, n_ctx=N_CTX, threads=threads) for name, path in files.items()}
    times = Stopwatch()
    try:
        for number, name in enumerate((*sorted(files), *order)):
            models[name].forget()  # the conversation of a chat has moved on
            with times:
                first_token(models[name], prompt_of(manifest["domains"][name], number))
        return times, held()
    finally:
        for model in models.values():
            model.close()


def prompt_of(entry: dict[str, Any], number: int) -> list[dict[str, str]]:
    """The system prompt of a domain and a question of its own for each number."""
    question = f"Question {number}: what should I do first, and why? Answer in one sentence."
    return [{"role": "system", "content": entry["system_prompt"]}, {"role": "user", "content": question}]


def held() -> float:
    """Megabytes this process holds, pages of mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def in_child(way: str, asked: argparse.Namespace, copies: Path, order: Sequence[str]) -> dict[str, Any]:
    """One way in a process of its own: seconds of each switch, memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        manifest = read_manifest(asked.release)
        files = merged_files(asked, manifest, copies)
        if way == "adapter":
            times, memory = by_adapter(asked.release, manifest, order, asked.threads)
        else:
            times, memory = (by_loading if way == "load" else by_resident)(files, manifest, order, asked.threads)
        last = {"clock": times.clock[-len(order) :], "computing": times.computing[-len(order) :]}
        os.write(writing, json.dumps({**last, "mb": memory}).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        raise SystemExit(f"the process that measured {way} did not end well")
    return dict(json.loads(said))


def merged_files(asked: argparse.Namespace, manifest: dict[str, Any], copies: Path) -> dict[str, Path]:
    """A domain's merged model by domain: of `--merged`, else the copies that stand in."""
    if asked.merged is None:
        return {name: copies / f"{name}.gguf" for name in manifest["domains"]}
    other = read_manifest(asked.merged)
    return {name: asked.merged / other["bases"][entry["base"]]["file"] for name, entry in other["domains"].items()}


def main() -> int:
    """Measure and say it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--release", type=Path, default=Path("releases/phase-1/current"))
    parser.add_argument("--merged", type=Path, help="a release of the same domains built with --merge exact")
    parser.add_argument("--switches", type=int, default=60)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: as a chat begun now would take")
    asked = parser.parse_args()
    asked.threads = asked.threads or idle_cores()
    asked.release = asked.release.resolve()
    manifest = read_manifest(asked.release)
    draw, order = random.Random(asked.seed), list[str]()
    while len(order) < asked.switches:
        name = draw.choice(sorted(manifest["domains"]))
        if not order or name != order[-1]:
            order.append(name)
    found: dict[str, Any] = {"machine": platform.platform(), "threads": asked.threads, "switches": len(order)}
    with tempfile.TemporaryDirectory(prefix="tara-bench-") as scratch:
        (base,) = manifest["bases"].values()
        for name in manifest["domains"] if asked.merged is None else ():
            shutil.copyfile(asked.release / base["file"], Path(scratch) / f"{name}.gguf")
        ways = {way: in_child(way, asked, Path(scratch), order) for way in ("adapter", "load", "resident")}
    stand_in = "copies of the base file stand in for merged models" if asked.merged is None else str(asked.merged)
    print(f"switch to first token, {len(order)} switches over {len(manifest['domains'])} domains; {stand_in}")
    for way, title in (
        ("adapter", "adapter on the resident base"),
        ("load", "merged file loaded at each switch"),
        ("resident", "every merged file resident"),
    ):
        clock, computing = ways[way]["clock"], ways[way]["computing"]
        found[way] = {
            "median_s": statistics.median(clock), "worst_s": max(clock), "computing_s": statistics.median(computing),
            "mb": ways[way]["mb"],
        }  # fmt: skip
        median, worst, own = (1000 * found[way][name] for name in ("median_s", "worst_s", "computing_s"))
        print(
            f"  {title:<34} median {median:5.0f} ms (computing {own:5.0f} ms), worst {worst:5.0f} ms, "
            f"{found[way]['mb']:4.0f} MB held"
        )
    for name, of in (("ratio", "median_s"), ("ratio_computing", "computing_s")):
        found[name] = found["load"][of] / found["adapter"][of]
    print(
        f"  loading takes {found['ratio']:.2f} times as long as switching the adapter "
        f"({found['ratio_computing']:.2f} times the computing)", flush=True,
    )  # fmt: skip
    passed = found["ratio"] > 1
    if asked.turns:
        soaked = soak(asked.release, asked.turns, seed=asked.seed, threads=asked.threads)
        print("\n".join(lines(soaked)))
        found["soak"] = {
            "turns": soaked.turns, "compared": soaked.compared, "different": len(soaked.different),
            "growth_mb": soaked.growth() / 1e6, "restarts": soaked.restarts,
            "switch_ms": 1000 * statistics.median(soaked.switch_s),
            "switch_to_first_token_s": statistics.median(soaked.first_s),
        }  # fmt: skip
        passed = passed and soaked.passed
    print(f"RESULT {json.dumps(found)}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
