"""Bundles: on the embedded base, the real file with two random adapters, and on a tiny one, which answers at once."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.catalog import load_catalog
from core.catalog.examples import example_files, read_example_messages
from core.chat.client import Done, Engine, Restarted, Token
from core.chat.protocol import SamplingOptions
from core.chat.session import Conversation
from core.deploy.manifest import FORMAT
from core.files import sha256_of
from core.routing import build_routing_data
from core.workspace import Workspace
from tests.core.chat.tiny import BASE_ID, write_adapter, write_model
from tests.models import embedded_gguf

REPOSITORY = Path(__file__).parents[3]
DOMAINS = ("healthcare", "leadership")
FIVE = ("business", "creative", "education", "healthcare", "leadership")
GREEDY = SamplingOptions(max_tokens=12, temperature=0)
SEEDED = SamplingOptions(max_tokens=24, temperature=0.8, seed=5)
LONG = SamplingOptions(max_tokens=400, temperature=0.8, seed=3)


def write_bundle(
    folder: Path,
    bases: Sequence[str] = ("small",),
    domains: Sequence[str] = DOMAINS,
    model: Path | None = None,
    **adapter: Any,
) -> Path:
    """A bundle of domains, spread over `bases`, all of which are the file `model`, by default the embedded one."""
    (folder / "adapters").mkdir(parents=True)
    file = model or embedded_gguf()
    shape = adapter if model is not None else {"width": 576, "layers": range(0, 30, 5), **adapter}
    entries: dict[str, Any] = {}
    for name in bases:
        os.symlink(file, folder / f"base-{name}.gguf")
        size = file.stat().st_size
        entries[name] = {
            "file": f"base-{name}.gguf", "sha256": sha256_of(file), "bytes": size, "base_sha256": BASE_ID,
        }  # fmt: skip
    found: dict[str, Any] = {}
    catalog = load_catalog(Workspace(REPOSITORY))
    for number, name in enumerate(domains):
        path = write_adapter(folder / "adapters" / f"{name}.gguf", number, domain=name, **shape)
        found[name] = {
            "base": bases[number % len(bases)],
            "adapter": f"adapters/{name}.gguf",
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "system_prompt": catalog.domains[name].system_prompt,
        }
    examples, general = read_example_messages(example_files(Workspace(REPOSITORY)))
    few = {name: examples[name][:14] for name in domains}
    routing = build_routing_data(
        [catalog.domains[name] for name in domains], {}, {}, examples=few, general=general[:40]
    )
    (folder / "routing.json").write_text(json.dumps(routing), "utf-8")
    manifest = {"format": FORMAT, "bases": entries, "domains": found, "routing": {"file": "routing.json"}}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle on the embedded base."""
    return write_bundle(tmp_path_factory.mktemp("chat") / "bundle")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model's file."""
    return write_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model: Path) -> Path:
    """A bundle of five domains on the tiny model."""
    return write_bundle(tiny_model.parent / "bundle", ("tiny",), FIVE, tiny_model)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine(bundle, n_ctx=512, threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Iterator[Engine]:
    """An engine on the tiny bundle."""
    with Engine(tiny_bundle, n_ctx=1024, threads=1) as made:
        yield made


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answer(
    engine: Engine,
    messages: list[dict[str, str]],
    domain: str | None,
    options: SamplingOptions = GREEDY,
    **how: Any,
) -> Done:
    """The end of an answer, whose pieces were its text."""
    events = list(engine.ask(messages, domain, options, **how))
    done = events[-1]
    assert isinstance(done, Done)
    pieces = [event.text for event in events[:-1] if isinstance(event, Token)]
    assert len(pieces) + sum(isinstance(event, Restarted) for event in events) == len(events) - 1
    assert "".join(pieces) == done.text
    return done


def gone(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return


@pytest.fixture
def conversation(tiny_bundle: Path, tiny: Engine) -> Conversation:
    """A conversation with the tiny bundle, seeded."""
    return Conversation(tiny_bundle, engine=tiny, sampling=SEEDED)
