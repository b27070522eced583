"""What validation says of whole, damaged and unsafe folders of each kind."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.errors import InvalidInput
from core.files import write_manifest
from core.hygiene import Kind, Report, kind_of, validate_model
from tests.core.hygiene.folders import (
    WIDTH,
    adapter_tensors,
    edit_json,
    llama_tensors,
    numbers,
    write_adapter,
    write_json,
    write_model,
    write_sharded,
)


def codes(report: Report, severity: str | None = None) -> set[str]:
    return {finding.code for finding in report.findings if severity in (None, finding.severity)}


def test_whole_model_and_adapter_have_no_findings(tmp_path: Path) -> None:
    for folder in (write_model(tmp_path / "m"), write_adapter(tmp_path / "a"), write_sharded(tmp_path / "s")):
        report = validate_model(folder)
        assert report.ok
        assert report.findings == ()
        assert report.facts["numbers_checked"] == report.facts["numbers"] == report.facts["parameters"] > 0
    assert validate_model(tmp_path / "a").as_dict()["kind"] == "adapter"


def test_kinds(tmp_path: Path) -> None:
    model, adapter = write_model(tmp_path / "m"), write_adapter(tmp_path / "a")
    assert (kind_of(model), kind_of(adapter)) == (Kind.MODEL, Kind.ADAPTER)
    (adapter / "optimizer.pt").write_bytes(b"x")
    assert kind_of(adapter) is Kind.CHECKPOINT
    (tmp_path / "empty").mkdir()
    assert kind_of(tmp_path / "empty") is Kind.UNKNOWN
    with pytest.raises(InvalidInput):
        kind_of(tmp_path / "absent")


def test_unknown_folder_names_what_is_inside(tmp_path: Path) -> None:
    write_adapter(tmp_path / "x" / "default")
    report = validate_model(tmp_path / "x")
    assert codes(report) == {"unknown-kind"}
    assert "default (adapter)" in report.errors[0].message


MODEL_FAULTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("file-missing", "config.json", lambda folder: (folder / "config.json").unlink()),
    ("config-unreadable", "config.json", lambda folder: (folder / "config.json").write_text("{")),
    ("config-unreadable", "config.json", lambda folder: (folder / "config.json").write_text("[]")),
    ("config-incomplete", "config.json", lambda folder: edit_json(folder / "config.json", hidden_size=...)),
    ("config-incomplete", "config.json", lambda folder: edit_json(folder / "config.json", model_type=...)),
    ("config-wrong", "config.json", lambda folder: edit_json(folder / "config.json", num_hidden_layers=-3)),
    ("config-wrong", "config.json", lambda folder: edit_json(folder / "config.json", num_hidden_layers=10**12)),
    ("shape-wrong", "config.json", lambda folder: edit_json(folder / "config.json", intermediate_size=32)),
    ("tensor-missing", "", lambda folder: edit_json(folder / "config.json", num_hidden_layers=3)),
    ("tensor-missing", "", lambda folder: edit_json(folder / "config.json", tie_word_embeddings=False)),
    ("token-id-outside", "config.json", lambda folder: edit_json(folder / "config.json", pad_token_id=99)),
    ("weights-missing", "", lambda folder: (folder / "model.safetensors").unlink()),
    ("tokenizer-missing", "", lambda folder: (folder / "tokenizer.json").unlink()),
    ("tokenizer-unreadable", "tokenizer.json", lambda folder: (folder / "tokenizer.json").write_text("nonsense")),
    ("config-unreadable", "generation_config.json", lambda folder: (folder / "generation_config.json").write_text("x")),
    (
        "special-token-unknown",
        "tokenizer_config.json",
        lambda folder: edit_json(folder / "tokenizer_config.json", eos_token="<gone>"),
    ),
]


@pytest.mark.parametrize(("code", "file", "damage"), MODEL_FAULTS)
def test_faults_of_a_model_are_errors(tmp_path: Path, code: str, file: str, damage: Callable[[Path], object]) -> None:
    folder = write_model(tmp_path / "m")
    damage(folder)
    report = validate_model(folder)
    assert not report.ok
    assert (code, file) in {(finding.code, finding.file) for finding in report.errors}


def test_truncated_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    report = validate_model(folder)
    assert codes(report, "error") == {"weights-unreadable"}
    assert "cut off" in report.errors[0].message


def test_not_finite_weights_are_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    tensors = llama_tensors()
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    report = validate_model(folder)
    assert codes(report) == {"not-finite"}
    assert "model.norm.weight (1 of 8)" in report.errors[0].message


def test_embedding_smaller_than_vocabulary(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    save_file({**llama_tensors(), "model.embed_tokens.weight": numbers(9, WIDTH)}, folder / "model.safetensors")
    edit_json(folder / "config.json", vocab_size=9)
    assert codes(validate_model(folder)) == {"vocabulary-too-large"}


def test_a_pickle_is_unsafe_and_never_opened(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    witness = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (open, (str(witness), "w"))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    report = validate_model(folder)
    assert codes(report, "error") == {"unsafe-pickle"}
    assert report.errors[0].fix
    (folder / "model.safetensors").unlink()
    report = validate_model(folder)
    assert codes(report, "error") == {"unsafe-pickle", "weights-missing"}
    assert not witness.exists()


def test_training_state_is_a_note_not_an_error(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "checkpoint-20")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_bytes(b"x")
    report = validate_model(folder)
    assert report.ok
    assert report.kind == "checkpoint"
    assert codes(report) == {"checkpoint", "garbage"}


def test_missing_pad_token_and_template_are_warnings(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    edit_json(folder / "tokenizer_config.json", pad_token=..., chat_template=...)
    report = validate_model(folder)
    assert report.ok
    assert codes(report, "warning") == {"pad-token-missing", "chat-template-missing"}


def test_shards(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "s", index=False)
    assert codes(validate_model(folder), "error") == {"index-missing"}
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert codes(validate_model(folder), "error") == {"shard-missing"}
    folder = write_sharded(tmp_path / "t")
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert codes(validate_model(folder), "error") == {"shard-missing"}
    folder = write_sharded(tmp_path / "u")
    index = folder / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"model.norm.weight": "../../../outside.safetensors"}})
    assert codes(validate_model(folder), "error") == {"index-outside"}
    write_json(index, {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})
    assert "index-wrong" in codes(validate_model(folder), "error")


def test_unknown_architecture_is_said(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    edit_json(folder / "config.json", model_type="retnet")
    report = validate_model(folder)
    assert report.ok
    assert codes(report) == {"architecture-unknown"}


def test_a_folder_that_differs_from_its_manifest(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    write_manifest(folder, {"kind": "adapter"})
    assert validate_model(folder).ok
    edit_json(folder / "adapter_config.json", lora_alpha=64)
    assert codes(validate_model(folder), "error") == {"manifest-differs"}
    for text in ('{"files": 3}', '{"files": {"adapter_config.json": {}}}', "{"):
        (folder / "MANIFEST.json").write_text(text)
        assert not validate_model(folder).ok


def test_oversized_and_empty_files(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    with open(folder / "notes.txt", "wb") as stream:
        stream.truncate(300 << 20)  # sparse: takes no space
    (folder / "empty.json").touch()
    report = validate_model(folder)
    assert codes(report) == {"oversized", "empty-file"}


ADAPTER_FAULTS: list[tuple[str, Callable[[Path], object]]] = [
    ("file-missing", lambda folder: (folder / "adapter_config.json").unlink()),
    ("file-missing", lambda folder: (folder / "adapter_model.safetensors").unlink()),
    ("config-unreadable", lambda folder: (folder / "adapter_config.json").write_text("[1]")),
    ("not-lora", lambda folder: edit_json(folder / "adapter_config.json", peft_type="IA3")),
    ("base-name-missing", lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path=None)),
    ("rank-missing", lambda folder: edit_json(folder / "adapter_config.json", r="two")),
    ("alpha-missing", lambda folder: edit_json(folder / "adapter_config.json", lora_alpha=...)),
    ("targets-missing", lambda folder: edit_json(folder / "adapter_config.json", target_modules=[])),
    ("shape-wrong", lambda folder: edit_json(folder / "adapter_config.json", r=4)),
    (
        "target-without-tensors",
        lambda folder: edit_json(folder / "adapter_config.json", target_modules=["q_proj", "x"]),
    ),
    ("unsafe-pickle", lambda folder: (folder / "adapter_model.bin").write_bytes(b"x")),
]


@pytest.mark.parametrize(("code", "damage"), ADAPTER_FAULTS)
def test_faults_of_an_adapter_are_errors(tmp_path: Path, code: str, damage: Callable[[Path], object]) -> None:
    folder = write_adapter(tmp_path / "a")
    damage(folder)
    assert code in codes(validate_model(folder), "error")


def test_half_a_pair_zero_and_uneven_adapters(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.v_proj"
    tensors = adapter_tensors()
    del tensors[f"{name}.lora_B.weight"]
    report = validate_model(write_adapter(tmp_path / "half", tensors))
    assert codes(report, "error") == {"pair-incomplete"}
    assert "layers.1.self_attn.v_proj" in report.errors[0].message
    zero = {key: value * ("lora_A" in key) for key, value in adapter_tensors().items()}
    report = validate_model(write_adapter(tmp_path / "zero", zero))
    assert (report.ok, codes(report)) == (True, {"adapter-is-zero"})
    uneven = {**adapter_tensors(), f"{name}.lora_B.weight": numbers(6, 2)}
    assert codes(validate_model(write_adapter(tmp_path / "uneven", uneven)), "error") == {"shape-uneven"}


def test_rank_pattern_is_honoured(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.1.self_attn.v_proj"
    tensors = {**adapter_tensors(), f"{name}.lora_A.weight": numbers(3, 8), f"{name}.lora_B.weight": numbers(4, 3)}
    assert not validate_model(write_adapter(tmp_path / "a", tensors)).ok
    report = validate_model(write_adapter(tmp_path / "b", tensors, rank_pattern={"layers.1.self_attn.v_proj": 3}))
    assert report.findings == ()


def test_foreign_text_in_messages_has_no_control_characters(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", peft_type="\x1b]0;owned\x07")
    assert all(char.isprintable() for finding in validate_model(folder).findings for char in finding.message)
