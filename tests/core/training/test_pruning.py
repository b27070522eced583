"""Layers and channels taken out: the pruned model computes what the whole one does without them, and learns again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.files import sha256_of
from core.tasks.context import TaskError
from core.training.base import load_model
from core.training.cut import Cut, anatomy, read_cut, write_cut
from core.training.fitting import Choice, choices_within, protected, weights_of, widths
from core.training.lora import add_lora, lora_config, save_adapter
from core.training.merge import read_updates
from core.training.pruning import as_cut, cut_of, loss_of, measure, removal_order
from core.training.render import Rendered
from core.training.riders import Riders
from core.training.slicing import slice_adapter
from core.training.student import Lesson, as_student, divergence, mixed, teach
from core.training.teacher import Teacher, say, write_teacher
from tests.models import ARCHITECTURES, build_tiny

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 900, 17, 44, 2000, 3, 71, 12]])


def lessons(count: int = 3) -> list[tuple[str, Rendered]]:
    """Some texts of two domains, the second half of each to be predicted."""
    chance = torch.Generator().manual_seed(1)
    rows = torch.randint(3, 2000, (count, 12), generator=chance).tolist()
    return [("ab"[at % 2], Rendered(tuple(row), (False,) * 6 + (True,) * 6, at)) for at, row in enumerate(rows)]


def some_cut(width: int = 96, whole: int = 128) -> Cut:
    chance = torch.Generator().manual_seed(3)
    layers = (0, 2, 3)
    kept = {at: tuple(sorted(torch.randperm(whole, generator=chance)[:width].tolist())) for at in layers}
    return Cut(layers, kept, 4, whole)


def adapter_on(base: Path, folder: Path, seed: int = 5) -> Path:
    model = load_model(base, torch.float32)
    torch.manual_seed(seed)
    adapted = add_lora(model, lora_config(model, base_name="base", r=4, alpha=8, dropout=0.0))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    folder.mkdir()
    save_adapter(adapted, folder)
    return folder


def lively(folder: Path) -> Path:
    """Make a random model one whose layers change what it says: as it comes, all tokens are about equally likely."""
    model = load_model(folder, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0 if "layers" in name else 8.0)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pruned_model_is_the_whole_one_without_what_went(architecture: str, tmp_path: Path) -> None:
    base = build_tiny(architecture, tmp_path / "base", layers=4)
    about = anatomy(base)
    whole = 256 if architecture == "gpt2" else 128  # gpt2 gives no size: four times the hidden one
    assert (about.layers, about.channels, about.cuttable) == (4, whole, True)
    cut = some_cut(whole=whole)
    write_cut(base, cut, tmp_path / "pruned", lambda _done, _total: None, block=1000)
    model, small = load_model(base, torch.float32), load_model(tmp_path / "pruned", torch.float32)
    adapter = adapter_on(base, tmp_path / "adapter")
    slice_adapter(adapter, cut, tmp_path / "sliced")
    riders = Riders(model, {"a": read_updates(adapter)})
    cut_riders = Riders(small, {"a": read_updates(tmp_path / "sliced")})
    model.eval(), small.eval()
    with torch.inference_mode(), as_cut(model, cut):
        plain, cut_plain = model(IDS).logits, small(IDS).logits
        with riders.riding("a"), cut_riders.riding("a"):
            adapted, cut_adapted = model(IDS).logits, small(IDS).logits
    torch.testing.assert_close(cut_plain, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut_adapted, adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, adapted, atol=1e-3)
    assert read_cut(tmp_path / "pruned") == cut
    tied = architecture in ("qwen2", "gpt2")
    assert (small.get_input_embeddings().weight is small.get_output_embeddings().weight) == tied
    tokenizer = [path.name for path in base.iterdir() if "token" in path.name]
    assert tokenizer
    assert all(sha256_of(base / name) == sha256_of(tmp_path / "pruned" / name) for name in tokenizer)
    assert len(load_file(tmp_path / "pruned" / "model.safetensors")) < len(load_file(base / "model.safetensors"))


def test_weights_in_several_files_keep_their_index(tmp_path: Path) -> None:
    base = build_tiny("llama", tmp_path / "base", layers=4)
    model = load_model(base, torch.bfloat16)
    model.save_pretrained(tmp_path / "parts", max_shard_size="3MB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    write_cut(tmp_path / "parts", some_cut(), tmp_path / "pruned", lambda _done, _total: None)
    index = json.loads((tmp_path / "pruned" / "model.safetensors.index.json").read_text())
    found = {name: load_file(tmp_path / "pruned" / shard)[name] for name, shard in index["weight_map"].items()}
    assert index["metadata"]["total_size"] == sum(one.numel() * one.element_size() for one in found.values())
    assert {one.dtype for one in found.values()} == {torch.bfloat16}
    assert not any("layers.3" in name for name in found)
    load_model(tmp_path / "pruned", torch.float32)


def test_an_adapter_that_names_layers_by_number_is_refused(tmp_path: Path) -> None:
    base = build_tiny("llama", tmp_path / "base", layers=4)
    adapter = adapter_on(base, tmp_path / "adapter")
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "layers_to_transform": [1]}))
    with pytest.raises(TaskError, match="names layers by their numbers"):
        slice_adapter(adapter, some_cut(), tmp_path / "sliced")


def test_what_is_missed_least_goes_first(tmp_path: Path) -> None:
    """A layer that does nothing is found by its influence and by the loss; silent channels by their score."""
    base = build_tiny("qwen2", tmp_path / "base", layers=4)
    about, model = anatomy(base), load_model(base, torch.float32)
    model.eval()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight[:, :64] = 0.0  # of layer 1 the first half is heard by nobody
    riders, texts = Riders(model, {}), lessons()
    whole = loss_of(model, riders, texts, CPU)
    statistics = measure(model, riders, texts, about, CPU)
    assert statistics.influence[2] == pytest.approx(0.0, abs=1e-5)
    assert all(statistics.influence[at] > 1e-4 for at in (0, 1, 3))
    order = removal_order(model, riders, texts, statistics.influence, 2, CPU)
    assert order == [2, 1]
    assert protected(4) == 1
    cut = cut_of(about, Choice(3, 64), order, statistics)
    assert cut.layers == (0, 1, 3)
    assert cut.channels[1] == tuple(range(64, 128))
    with as_cut(model, cut_of(about, Choice(3, 128), order, statistics)):
        assert loss_of(model, riders, texts, CPU) == pytest.approx(whole, abs=1e-5)
    assert loss_of(model, riders, texts, CPU) == whole
    assert len(model.model.layers) == 4


def test_the_least_is_removed_that_fits(tmp_path: Path) -> None:
    about = anatomy(build_tiny("llama", tmp_path / "base", layers=4))
    assert widths(about) == ((128, 96, 64), 32) or widths(about)[1] == 32
    found = choices_within(about, lambda choice: weights_of(about, choice) <= 0.8 * about.block_weights)
    assert found[0] == Choice(3, 128)
    assert all(weights_of(about, Choice(one.layers, one.width)) <= 0.8 * about.block_weights for one in found)
    assert choices_within(about, lambda _choice: False) == []
    assert choices_within(about, lambda _choice: True)[0] == Choice(4, 128)


def test_what_is_kept_of_a_teacher_sums_to_one(tmp_path: Path) -> None:
    model = load_model(build_tiny("llama", tmp_path / "base"), torch.float32)
    texts, path = lessons(), tmp_path / "teacher.safetensors"
    positions = write_teacher(path, model, Riders(model, {}), texts, 64, CPU, lambda _done: None)
    assert positions == sum(one.target_count for _, one in texts)
    teacher = Teacher(path, texts)
    for at in range(len(texts)):
        said = teacher.said(at)
        assert said.ids.shape == (6, 64)
        sums = said.logs.exp().sum(-1) + said.rest.exp()
        torch.testing.assert_close(sums, torch.ones(6), atol=2e-3, rtol=0)
    with pytest.raises(TaskError, match="other texts"):
        Teacher(path, texts[:2])


def test_the_mixed_gradient_is_that_of_the_mixed_loss() -> None:
    chance = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 40, generator=chance, dtype=torch.float64).float().requires_grad_()
    labels = torch.randint(0, 40, (5,), generator=chance)
    said = say(torch.randn(5, 40, generator=chance), 7)

    def by_hand(share: float) -> torch.Tensor:
        logs = logits.log_softmax(-1)
        ours = logs.gather(1, said.ids)
        tail = (1 - ours.exp().sum(-1)).log()
        kl = (said.logs.exp() * (said.logs - ours)).sum() + (said.rest.exp() * (said.rest - tail)).sum()
        return (1 - share) * -logs.gather(1, labels[:, None]).sum() + share * kl

    for share, theirs in ((0.5, said), (1.0, said), (0.0, None)):
        loss = by_hand(share)
        (wanted,) = torch.autograd.grad(loss, logits)
        ce, kl, found = mixed(logits.detach().clone(), labels, theirs, share)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
        assert (1 - share) * ce + share * kl == pytest.approx(float(loss.detach()), rel=1e-4)


@pytest.mark.parametrize(("architecture", "rank"), [("llama", 8), ("qwen2", 0)])
def test_teaching_brings_a_student_nearer_to_its_teacher(architecture: str, rank: int, tmp_path: Path) -> None:
    base = lively(build_tiny(architecture, tmp_path / "base", layers=4))
    adapter = adapter_on(base, tmp_path / "adapter")
    cut, texts, path = some_cut(), lessons(), tmp_path / "teacher.safetensors"
    model = load_model(base, torch.float32)
    write_teacher(path, model, Riders(model, {"a": read_updates(adapter)}), texts, 64, CPU, lambda _done: None)
    write_cut(base, cut, tmp_path / "pruned", lambda _done, _total: None)
    slice_adapter(adapter, cut, tmp_path / "sliced")
    small = load_model(tmp_path / "pruned", torch.float32)
    riders, teacher = Riders(small, {"a": read_updates(tmp_path / "sliced")}), Teacher(path, texts)
    before = divergence(small, riders, texts, teacher, CPU)
    assert before > 0.001
    embedding = small.get_input_embeddings().weight.detach().clone()
    told: list[Any] = []
    student = as_student(small, rank)
    taught = teach(student, riders, texts, teacher, Lesson(12, 2, 5e-3, rank, 1.0, 7), CPU, told.append)
    assert len(told) == 12
    assert taught.final_kl is not None
    assert taught.first_kl is not None
    assert taught.final_kl < taught.first_kl
    assert divergence(student, riders, texts, teacher, CPU) < 0.8 * before
    torch.testing.assert_close(small.get_input_embeddings().weight.detach(), embedding, rtol=0, atol=0)
