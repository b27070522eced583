import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.errors import TaraError
from core.files import check_manifest, sha256_of
from core.tasks.context import TaskError
from core.training.base import BaseSource, load_model, load_tokenizer, materialise, name_and_sha256, read_provenance
from core.training.render import FALLBACK_TEMPLATE
from core.workspace import Workspace
from tests.core.tasks.driving import drive, make_base, only
from tests.models import ARCHITECTURES, build_tiny, embedded_gguf


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_becomes_a_base_with_the_same_weights(tmp_path: Path, architecture: str) -> None:
    model = build_tiny(architecture, tmp_path / "model")
    before = {path.name: sha256_of(path) for path in model.iterdir()}
    base = make_base(tmp_path, model)
    assert {path.name: sha256_of(path) for path in model.iterdir()} == before
    check_manifest(base)
    ids = torch.arange(20)[None]
    theirs = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    assert torch.equal(load_model(base, torch.float32)(ids).logits, theirs)
    assert name_and_sha256(base)[0] == "tiny"
    assert len(name_and_sha256(base)[1]) == 64
    assert load_tokenizer(base).chat_template == load_tokenizer(model).chat_template


def test_the_embedded_base_keeps_the_values_of_its_gguf(tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    out = tmp_path / "artifacts" / "base" / "starter"
    events = drive(tmp_path, "base", out, {"base": {"name": "starter", "kind": "embedded"}}, {})
    manifest = check_manifest(out)
    announced = only(events, "artifact")
    assert announced["sha256"] == sha256_of(out / "MANIFEST.json")
    assert announced["meta"]["identity"] == sha256_of(embedded_gguf()) == manifest["sha256"]
    assert only(events, "result")["values"]["parameters"] == 134_515_008
    stored = {tensor.name: tensor for tensor in GGUFReader(embedded_gguf()).tensors}
    found = load_file(out / "model.safetensors")
    down = stored["blk.3.ffn_down.weight"]
    expected = torch.from_numpy(dequantize(down.data, down.tensor_type))
    assert torch.equal(found["model.layers.3.mlp.down_proj.weight"], expected)
    assert "lm_head.weight" not in found  # shared with the embedding
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"]


def test_the_identity_of_a_gguf_that_changed_since_it_was_planned_is_refused(tmp_path: Path) -> None:
    source = BaseSource("starter", "gguf", path=str(embedded_gguf()), identity="0" * 64)
    with pytest.raises(TaskError, match="not the base that was planned"):
        materialise(source, Workspace(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_chat_template_gets_the_fallback(tmp_path: Path) -> None:
    model = build_tiny("gpt2", tmp_path / "model", chat_template=False)
    base = make_base(tmp_path, model)
    assert load_tokenizer(base).chat_template == FALLBACK_TEMPLATE
    provenance = read_provenance(base)
    assert provenance is not None
    assert provenance["chat_template"] == "fallback"
    assert not (model / "chat_template.jinja").exists()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    model = build_tiny("gpt2", tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(TaraError, match="pickle") as caught:
        make_base(tmp_path, model)
    assert "safetensors" in str(caught.value.hint)
    assert list((tmp_path / "artifacts" / "base").iterdir()) == []


def test_a_quantized_folder_is_refused(tmp_path: Path) -> None:
    model = build_tiny("llama", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(TaskError, match="quantized"):
        make_base(tmp_path, model)


def test_weights_of_another_shape_than_the_config_says_are_refused(tmp_path: Path) -> None:
    model = build_tiny("llama", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 256}))
    with pytest.raises(TaskError, match=r"config\.json wants"):
        make_base(tmp_path, model)
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(TaskError, match="no weights for"):
        make_base(tmp_path, model)


def test_a_damaged_weight_file_is_refused(tmp_path: Path) -> None:
    model = build_tiny("llama", tmp_path / "model")
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(TaskError, match="not readable safetensors"):
        make_base(tmp_path, model)


def test_code_and_pickles_of_a_folder_are_left_behind(tmp_path: Path) -> None:
    model = build_tiny("llama", tmp_path / "model")
    for name in ("modeling_own.py", "optimizer.pt", "README.md"):
        (model / name).write_text("x")
    base = make_base(tmp_path, model)
    assert not {"modeling_own.py", "optimizer.pt"} & {path.name for path in base.iterdir()}


def test_sharded_weights_stay_sharded(tmp_path: Path) -> None:
    whole = build_tiny("llama", tmp_path / "whole")
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(model, max_shard_size="13MB")
    for path in whole.glob("tokenizer*"):
        shutil.copy(path, model)
    base = make_base(tmp_path, model)
    assert len(list(base.glob("*.safetensors"))) > 1
    next(model.glob("*-00002-*.safetensors")).unlink()
    with pytest.raises(TaraError, match="lacks"):
        make_base(tmp_path, model, "again")


def test_an_unknown_kind_and_a_missing_model_are_explained(tmp_path: Path) -> None:
    for base, expected in (
        ({"name": "x", "kind": "torrent"}, "unknown kind"),
        ({"name": "x", "kind": "hub", "hub_id": "nobody/nothing-here"}, "not on this machine"),
        ({"name": "x", "kind": "gguf", "path": str(tmp_path / "no.gguf")}, "not there"),
        ({"kind": "gguf"}, "no name or kind"),
    ):
        with pytest.raises((TaskError, TaraError), match=expected):
            drive(tmp_path, "base", tmp_path / "artifacts" / "x", {"base": base}, {})
