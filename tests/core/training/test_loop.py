import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from core.training import lora
from core.training import loss as loss_module
from core.training.base import load_model
from core.training.loop import Recipe, StepReport, batches_of_an_epoch, learning_rate_at, total_steps, train
from core.training.loss import IGNORED, collate, head_by_row_is_exact, loss_sum
from core.training.render import Rendered
from core.training.runtime import prepare
from core.training.scoring import score_examples, total
from tests.models import ARCHITECTURES, build_tiny

CPU = torch.device("cpu")
RECIPE = Recipe(2, 1, 1e-2, 1, 100, 0.1, 0.01, seed=3)


def made(length: int, prompt: int, start: int = 100) -> Rendered:
    targets = (False,) * prompt + (True,) * (length - prompt)
    return Rendered(tuple(range(start, start + length)), targets, 1)


EXAMPLES = [made(12 + at % 5, 6, start=100 + 3 * at) for at in range(10)]


def adapted(folder: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    prepare(2, seed=1)
    model = load_model(build_tiny(architecture, folder / architecture), dtype)
    return lora.add_lora(model, lora.lora_config(model, base_name="tiny", r=4, alpha=8, dropout=dropout))


@pytest.mark.parametrize(
    ("epochs", "batch", "accumulation", "limit", "expected"),
    [
        (3, 1, 1, None, 30),
        (3, 4, 1, None, 9),
        (3, 4, 2, None, 6),
        (3, 1, 1, 7, 7),
        (1, 64, 8, 5, 1),
        (0.5, 1, 1, None, 5),
    ],
)
def test_a_run_ends_at_epochs_or_steps_whichever_is_first(
    epochs: float, batch: int, accumulation: int, limit: int | None, expected: int
) -> None:
    recipe = dataclasses.replace(
        RECIPE, epochs=epochs, batch_size=batch, gradient_accumulation=accumulation, max_steps=limit
    )
    assert total_steps(10, recipe) == expected


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate_at(step, 100, RECIPE) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == pytest.approx(RECIPE.learning_rate) == max(rates)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(RECIPE.learning_rate / 2)
    assert 0 < rates[-1] < RECIPE.learning_rate / 100


def test_an_epoch_has_every_example_once_in_batches_of_like_length() -> None:
    lengths = [random.Random(1).randrange(10, 200) for _ in range(50)]
    order = random.Random(5)
    first, second = (batches_of_an_epoch(lengths, 4, order) for _ in range(2))
    assert sorted(index for batch in first for index in batch) == list(range(50))
    assert first != second
    padding = sum(len(batch) * max(lengths[i] for i in batch) - sum(lengths[i] for i in batch) for batch in first)
    assert padding < 0.1 * sum(lengths)


def test_labels_stand_at_the_position_that_predicts_them() -> None:
    batch = collate([made(5, 3), made(7, 2, start=200)], CPU)
    assert batch["input_ids"].tolist()[0] == [100, 101, 102, 103, 104, 0, 0]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 1, 1, 0, 0]
    no = IGNORED
    assert batch["labels"].tolist() == [[no, no, 103, 104, no, no, no], [no, 202, 203, 204, 205, 206, no]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_and_its_gradient_are_those_of_the_whole_model(
    tmp_path: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "head_rows", lambda _vocabulary: 60)  # several chunks, the last one smaller
    model = adapted(tmp_path, architecture)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()  # gpt2 has dropout of its own
    batch = collate([made(90, 3), made(70, 5, start=300)], CPU)
    assert head_by_row_is_exact(model, EXAMPLES[0], CPU)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    plain = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    plain.backward()
    expected = {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}
    for by_row in (True, False):
        model.zero_grad()
        loss = loss_sum(model, batch, by_row=by_row)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-5 * expected[name].abs().max())


def test_a_head_whose_logits_are_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tmp_path)
    inner = model.get_base_model()
    plain = type(inner).forward

    def scaled(self: Any, *arguments: Any, **named: Any) -> Any:
        output = plain(self, *arguments, **named)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(type(inner), "forward", scaled)
    assert not head_by_row_is_exact(model, EXAMPLES[0], CPU)


def weights_after(folder: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    model = adapted(folder)
    train(model, EXAMPLES, recipe, CPU, lambda _: None)
    return lora.adapter_tensors(model)


def test_accumulating_two_batches_is_one_batch_of_twice_the_size(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, batch_size=10, max_steps=1, warmup_ratio=0)
    several = dataclasses.replace(one, batch_size=2, gradient_accumulation=5)
    first, second = weights_after(tmp_path / "a", one), weights_after(tmp_path / "b", several)
    for name in first:
        assert torch.allclose(first[name], second[name], atol=2e-4), name


def test_training_lowers_the_loss_and_reports_each_step(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    before = total(score_examples(model, EXAMPLES, CPU, lambda _: None))
    reports: list[StepReport] = []
    outcome = train(model, EXAMPLES, dataclasses.replace(RECIPE, epochs=4), CPU, reports.append)
    after = total(score_examples(model, EXAMPLES, CPU, lambda _: None))
    assert after.loss < 0.96 * before.loss
    assert after.accuracy > before.accuracy + 0.2
    assert [report.step for report in reports] == list(range(1, 21))
    assert {report.total for report in reports} == {20}
    assert outcome.tokens == 4 * sum(len(example.input_ids) for example in EXAMPLES)
    assert outcome.peak_rss_mb > 0
    assert all(report.tokens_per_s > 0 and report.gradient_norm > 0 for report in reports)


def test_only_the_adapter_changes_and_stays_float32(tmp_path: Path) -> None:
    model = adapted(tmp_path, dtype=torch.bfloat16, dropout=0.1)
    frozen = {name: each.clone() for name, each in model.named_parameters() if "lora_" not in name}
    train(model, EXAMPLES, RECIPE, CPU, lambda _: None)
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name])
            assert parameter.dtype == torch.bfloat16
        else:
            assert parameter.dtype == torch.float32


def test_a_score_does_not_depend_on_the_other_examples(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    together = score_examples(model, EXAMPLES, CPU, lambda _: None)
    alone = [score_examples(model, [example], CPU, lambda _: None)[0] for example in EXAMPLES]
    assert together == alone
    assert total(together).tokens == sum(example.target_count for example in EXAMPLES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_score_is_that_of_the_whole_models_logits(tmp_path: Path, architecture: str) -> None:
    model = adapted(tmp_path, architecture)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    (score,) = score_examples(model, [EXAMPLES[4]], CPU, lambda _: None)
    batch = collate([EXAMPLES[4]], CPU)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"]).logits[0, 5:-1]
    wanted = batch["input_ids"][0, 6:]
    assert score.loss_sum == pytest.approx(float(functional.cross_entropy(logits, wanted, reduction="sum")), rel=1e-5)
    assert score.correct == int((logits.argmax(-1) == wanted).sum())
    assert score.tokens == len(wanted)
