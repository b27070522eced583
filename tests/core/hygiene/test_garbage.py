"""Garbage is told by any part of the path; nothing a model needs is ever taken for it."""

from pathlib import PurePath

import pytest

from core.hygiene.garbage import garbage_reason


@pytest.mark.parametrize(
    "path",
    [
        "notes.tmp", "x.temp", "config.json.bak", "model.safetensors.backup", "train.log", "train.log.1", "a.lock",
        "a.cache", "a.pyc", "config.json~", ".config.json.swp", ".DS_Store", "._model.safetensors", "nohup.out",
        "checkpoint-100/adapter_model.safetensors", "deep/checkpoint-7/config.json", "runs/events.out.tfevents.1",
        "logs/a.txt", "wandb/run/config.json", ".git/config", "sub/.git/objects/aa", "__pycache__/m.pyc",
        ".cache/huggingface/x.json", "cache/tokenizer.json", "optimizer.pt", "optimizer.safetensors", "scheduler.pt",
        "rng_state.pth", "rng_state_0.pth", "trainer_state.json", "training_args.bin", "global_step20/mp_rank_00.pt",
        ".tmp-12-model.safetensors", ".tmp-3-folder/config.json", "TRAIN.LOG", "Logs/x", ".gitattributes",
        "model.safetensors.incomplete",
    ],
)  # fmt: skip
def test_garbage_has_a_reason(path: str) -> None:
    assert garbage_reason(PurePath(path))


@pytest.mark.parametrize(
    "path",
    [
        "config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
        "model.safetensors.index.json", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "tokenizer.model", "tokenizer.model.v3", "spiece.model", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja",
        "chat_templates/tools.jinja",
        "README.md", "LICENSE", "tara.json", "catalog.json", "logistics.txt", "cached_vocab.txt",
        "1_Pooling/config.json",
        "base-tiny.gguf", "modeling_custom.py", "blog.md", "temperature.json", "checkpoint.json", "runs.json",
    ],
)  # fmt: skip
def test_what_a_model_may_need_is_kept(path: str) -> None:
    assert garbage_reason(PurePath(path)) is None


def test_reason_names_the_folder() -> None:
    assert "checkpoint-100/" in str(garbage_reason(PurePath("checkpoint-100/model.safetensors")))
