"""A bundle on the embedded base: the real file, two random adapters, routing data of the shipped catalog."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from core.catalog import load_catalog
from core.chat.client import Engine
from core.chat.protocol import SamplingOptions
from core.deploy.manifest import FORMAT
from core.files import sha256_of
from core.gguf.metadata import BASE_NAME, BASE_SHA256
from core.routing import build_routing_data
from core.workspace import Workspace
from tests.models import embedded_gguf

REPOSITORY = Path(__file__).parents[3]
BASE_ID = "a" * 64
DOMAINS = ("healthcare", "leadership")
GREEDY = SamplingOptions(max_tokens=12, temperature=0)


def write_adapter(path: Path, seed: int, *, base_sha256: str = BASE_ID, width: int = 576) -> None:
    """A rank-4 adapter on the query projections of the embedded base, strong enough to change what it says."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    writer.add_string(BASE_SHA256, base_sha256)
    writer.add_string(BASE_NAME, "embedded")
    for layer in range(0, 30, 5):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", random.normal(0, 0.5, (4, width)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", random.normal(0, 0.5, (width, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_bundle(folder: Path, bases: tuple[str, ...] = ("small",)) -> Path:
    """A bundle of DOMAINS, spread over `bases`, all of which are the embedded file."""
    (folder / "adapters").mkdir(parents=True)
    entries: dict[str, Any] = {}
    for name in bases:
        os.symlink(embedded_gguf(), folder / f"base-{name}.gguf")
        size = embedded_gguf().stat().st_size
        entries[name] = {"file": f"base-{name}.gguf", "sha256": "0" * 64, "bytes": size, "base_sha256": BASE_ID}
    domains: dict[str, Any] = {}
    catalog = load_catalog(Workspace(REPOSITORY))
    for number, name in enumerate(DOMAINS):
        path = folder / "adapters" / f"{name}.gguf"
        write_adapter(path, number)
        domains[name] = {
            "base": bases[number % len(bases)],
            "adapter": f"adapters/{name}.gguf",
            "sha256": sha256_of(path),
            "bytes": path.stat().st_size,
            "system_prompt": catalog.domains[name].system_prompt,
        }
    routing = build_routing_data([catalog.domains[name] for name in DOMAINS], {}, {})
    (folder / "routing.json").write_text(json.dumps(routing), "utf-8")
    manifest = {"format": FORMAT, "bases": entries, "domains": domains, "routing": {"file": "routing.json"}}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("chat") / "bundle")


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine(bundle, n_ctx=512, threads=1) as made:
        yield made


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
