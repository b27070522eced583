"""Folders as transformers and peft really write them pass without an error, for each architecture."""

from pathlib import Path

import pytest

from core.hygiene import check_adapter, clean, validate_model
from core.hygiene.reading import read_object
from tests.models import ARCHITECTURES, build_tiny


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_models_and_adapters(tmp_path: Path, architecture: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = build_tiny(architecture, tmp_path / "base")
    report = validate_model(base)
    assert [finding for finding in report.findings if finding.severity != "note"] == []
    model = AutoModelForCausalLM.from_pretrained(base)
    assert report.facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    settings = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_rslora=True,
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, settings)
    adapted.peft_config["default"].base_model_name_or_path = "tiny"  # peft puts the folder there
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    config = read_object(base / "config.json")
    assert {finding.code for finding in check_adapter(tmp_path / "adapter", ["tiny"], config)} == {"gguf-rslora"}
    tokens = torch.arange(5, 15).reshape(1, 10)
    with torch.no_grad():
        expected = adapted(tokens).logits
    clean(tmp_path / "adapter", tmp_path / "clean")
    assert check_adapter(tmp_path / "clean", ["tiny"], config) == []
    from peft import PeftModel

    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "clean")
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, expected, rtol=1e-4, atol=1e-5)
