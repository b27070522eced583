"""What jobs are expected to take, by the files of real bases and by folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.catalog import load_catalog
from core.catalog.bases import Located, locate
from core.catalog.config import parameters_of
from core.phases.kinds import KINDS
from core.phases.needs import LIBRARIES, Estimator, footprint, need_of, shape_of
from core.training.footprint import Shape
from core.workspace import Workspace
from tests.conftest import use_base
from tests.models import ARCHITECTURES, build_tiny, embedded_gguf

LARGE = Shape(3_000_000_000, 36, 2048, 11008, 151936)
PRESET = {
    "batch_size": 8, "sequence_length": 1024, "lora_r": 16, "lora_dropout": 0.05, "dtype": "bfloat16",
}  # fmt: skip


def test_the_embedded_base_is_read_from_its_header(workspace: Workspace) -> None:
    base = load_catalog(workspace).base("starter-135M")
    shape = shape_of(locate(base, workspace), base.parameters)
    assert shape == Shape(base.parameters, layers=30, hidden=576, inner=1536, vocabulary=49152, gated=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_is_read_from_its_config(architecture: str, tmp_path: Path) -> None:
    folder = build_tiny(architecture, tmp_path / architecture)
    shape = shape_of(Located("tiny", "local", folder), 1000)
    assert min(shape.layers, shape.hidden, shape.inner, shape.vocabulary) > 0
    assert shape.gated == (architecture != "gpt2")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folders_weights_are_counted_whatever_the_catalogue_says(
    workspace: Workspace, architecture: str, tmp_path: Path
) -> None:
    folder = build_tiny(architecture, tmp_path / architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    use_base(workspace, folder)  # which says a million
    estimator = Estimator(workspace, load_catalog(workspace))
    assert estimator.largest(["starter-135M"]).parameters == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_masks_and_a_head_that_is_the_embedding_are_not_counted(tied: bool, tmp_path: Path) -> None:
    folder = build_tiny("gpt2", tmp_path / "tiny")
    located = Located("tiny", "local", folder)
    counted = parameters_of(located)
    assert counted is not None
    weights = load_file(folder / "model.safetensors")
    head = weights["transformer.wte.weight"].clone()
    weights |= {"lm_head.weight": head, "transformer.h.0.attn.bias": torch.ones(1, 1, 512, 512)}
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config.pop("tie_word_embeddings", None)  # gpt2 ties where its config does not say
    (folder / "config.json").write_text(json.dumps(config if tied else config | {"tie_word_embeddings": False}))
    assert parameters_of(located) == counted + (0 if tied else head.numel())


def test_a_header_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "base.gguf"
    shutil.copyfile(embedded_gguf(), file)
    located = Located("tiny", "gguf", tmp_path, file.name)
    assert parameters_of(located) == parameters_of(located) == 134_515_008
    file.write_bytes(b"GGUF")
    assert parameters_of(located) is None


def test_what_cannot_be_counted_is_not_known(tmp_path: Path) -> None:
    folder = build_tiny("llama", tmp_path / "tiny")
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert parameters_of(Located("tiny", "local", folder)) is None
    (folder / "model.safetensors").unlink()
    assert parameters_of(Located("tiny", "local", folder)) is None


@pytest.mark.parametrize("config", ["", "[]", "{not json", '{"num_hidden_layers": true, "hidden_size": -1}'])
def test_what_is_not_told_counts_as_nothing(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    assert shape_of(Located("tiny", "local", tmp_path), 1000) == Shape(1000, 0, 0, 0, 0, gated=False)


def test_a_base_is_dequantized_only_where_it_is_a_gguf() -> None:
    """A folder's files are linked or copied: that takes no memory for its weights, however large it is."""
    assert need_of("base", {"base": {"gguf_file": None}}, LARGE).memory == LIBRARIES
    assert need_of("base", {"base": {"gguf_file": "b.gguf"}}, LARGE).memory > 20 * 10**9


def test_on_a_device_the_machine_holds_the_weights_and_not_the_work() -> None:
    need = need_of("train", {"preset": PRESET}, LARGE)
    assert need.device
    assert need.beside_device < 9 * 10**9 < need.device_memory
    assert need.memory == LIBRARIES + need.device_memory
    whole = need_of("train", {"preset": {**PRESET, "dtype": "float32"}}, LARGE)
    assert whole.beside_device - LIBRARIES == pytest.approx(2 * (need.beside_device - LIBRARIES))


def test_every_kind_of_a_plan_has_an_estimate() -> None:
    params = {"preset": PRESET, "sequence_length": 512, "base": {"gguf_file": None}, "tokens": 1, "top": 1, "rank": 8}
    for kind in KINDS:
        if kind not in ("deploy", "clean"):  # they name theirs themselves
            assert need_of(kind, params, LARGE).memory > 0, kind


def test_the_same_work_has_the_same_footprint_whichever_domain_it_is_for() -> None:
    one = footprint("train", {"domain": "a", "preset": {**PRESET, "learning_rate": 1.0}}, ["base"])
    assert one == footprint("train", {"domain": "b", "preset": {**PRESET, "learning_rate": 2.0}}, ["base"])
    assert one != footprint("train", {"domain": "a", "preset": {**PRESET, "batch_size": 4}}, ["base"])
    assert one != footprint("train", {"domain": "a", "preset": PRESET}, ["other"])
    assert one != footprint("evaluate", {"domain": "a", "preset": PRESET}, ["base"])
