import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.tasks import answers, parity
from core.tasks.context import TaskError
from tests.core.gguf.conftest import Task, run_task, save_random_adapter


def spec(prompt: Any, adapters: dict[str, Path], base: Path, gguf: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = {"base": "smollm2", "prompt": prompt, "system_prompt": "Answer briefly."}
    params = {"phase": 1, "domains": dict.fromkeys(adapters, facts)}
    inputs = {"bases": {"smollm2": {"gguf": str(gguf), "model": str(base)}}}
    return params, inputs | {"adapters": {name: str(path) for name, path in adapters.items()}}


@pytest.fixture(scope="module")
def gentle_gguf(folder: Path, base_folder: Path, base_sha256: str) -> Path:
    """An adapter that moves the logits, but leaves the base able to speak."""
    peft = folder / "adapter" / "gentle"
    peft.mkdir(parents=True)
    save_random_adapter(base_folder, peft, strength=0.002)
    out = folder / "gentle" / "gentle.gguf"
    params = {"domain": "gentle", "base_sha256": base_sha256, "base_name": "smollm2"}
    run_task(folder / "runs" / "gentle", "adapter-convert", out, params, {"base": base_folder, "adapter": peft})
    return out


def test_working_domains_pass_with_text_and_timings(
    f16: Path, base_folder: Path, gentle_gguf: Path, tmp_path: Path, task: Task
) -> None:
    questions = ["What is the capital of France?", "What is the capital of Italy?"]
    params, inputs = spec(questions, {"travel": gentle_gguf, "history": gentle_gguf}, base_folder, f16)
    made = task("verify", tmp_path / "phase-1.json", params, inputs)
    report = json.loads((tmp_path / "phase-1.json").read_text())
    assert sorted(report["domains"]) == made.result["passed"] == ["history", "travel"]
    for name, found in report["domains"].items():
        assert found["text"]
        assert all(found["gates"].values())
        assert set(found["gates"]) == {
            "special tokens", "awkward text", "template parity", "provenance", "adapter changes logits", "generation",
        }  # fmt: skip
        assert found["logit_change"] > 0.01
        assert (found["answers"]["asked"], found["answers"]["needed"]) == (2, 2)
        attempts = found["answers"]["attempts"]
        assert [one["prompt"] for one in attempts if one["chosen"] == "greedy"] == questions  # all, whatever came first
        assert {one["reused_tokens"] for one in attempts} == {0}
        assert made.measurements["answers_passed", name] == found["answers"]["passed"] == 2
        assert made.result["answers"][name].startswith("2 of 2 answers passed")
        assert made.artifact["meta"]["answers"][name]["passed"] == 2
        assert f"{name} 2 of 2 answers passed" in made.progress[-1]["message"]
        for figure in ("load_s", "tokens_per_s", "first_token_s"):
            assert made.measurements[figure, name] == found[figure] > 0


def test_an_adapter_that_does_nothing_fails_by_name(
    f16: Path, base_folder: Path, base_sha256: str, tmp_path: Path, task: Task
) -> None:
    peft = tmp_path / "silent"
    peft.mkdir()
    save_random_adapter(base_folder, peft, strength=0.0)
    out = tmp_path / "silent.gguf"
    params = {"domain": "silent", "base_sha256": base_sha256, "base_name": "smollm2"}
    task("adapter-convert", out, params, {"base": base_folder, "adapter": peft})
    params, inputs = spec("What is the capital of France?", {"silent": out}, base_folder, f16)
    with pytest.raises(TaskError, match="silent: adapter changes logits: they move by 0 "):
        task("verify", tmp_path / "report.json", params, inputs)
    assert not (tmp_path / "report.json").exists()


def test_an_adapter_that_ruins_the_base_fails_the_generation_gate(
    f16: Path, base_folder: Path, base_sha256: str, tmp_path: Path, task: Task
) -> None:
    peft = tmp_path / "ruin"
    peft.mkdir()
    save_random_adapter(base_folder, peft, strength=0.5)
    out = tmp_path / "ruin.gguf"
    params = {"domain": "ruin", "base_sha256": base_sha256, "base_name": "smollm2"}
    task("adapter-convert", out, params, {"base": base_folder, "adapter": peft})
    params, inputs = spec("What is the capital of France?", {"ruin": out}, base_folder, f16)
    with pytest.raises(TaskError, match="ruin: generation: "):
        task("verify", tmp_path / "report.json", params, inputs)


def test_another_template_in_training_is_found(
    f16: Path, base_folder: Path, gentle_gguf: Path, tmp_path: Path, task: Task
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_folder, model)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
    params, inputs = spec("What is the capital of France?", {"travel": gentle_gguf}, model, f16)
    with pytest.raises(TaskError, match=r"travel: awkward text: .* token \d+ differs: chat renders"):
        task("verify", tmp_path / "report.json", params, inputs)


def test_an_adapter_of_another_base_fails_provenance(
    f16: Path, base_folder: Path, base_sha256: str, gentle_gguf: Path, tmp_path: Path, task: Task
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_folder, model)
    about = json.loads((model / "tara.json").read_text())
    (model / "tara.json").write_text(json.dumps(about | {"sha256": "d" * 64}))
    params, inputs = spec("What is the capital of France?", {"travel": gentle_gguf}, model, f16)
    with pytest.raises(TaskError, match=f"travel: provenance: .*{base_sha256[:12]}"):
        task("verify", tmp_path / "report.json", params, inputs)


def test_an_answer_that_does_not_stop_by_itself_fails(
    f16: Path, base_folder: Path, gentle_gguf: Path, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_TOKENS", 12)
    params, inputs = spec("Tell me a long story about a ship.", {"travel": gentle_gguf}, base_folder, f16)
    with pytest.raises(
        TaskError, match=r"travel: generation: 0 of 1 answers passed, 1 must: greedy, does not stop: no end"
    ):
        task("verify", tmp_path / "report.json", params, inputs)


def test_one_answer_that_ends_does_not_make_up_for_two_that_do_not(
    f16: Path, base_folder: Path, gentle_gguf: Path, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export's report, with what is said of it; a domain's speed is none of it."""
    monkeypatch.setattr(answers, "MAX_TOKENS", 24)
    short, *long = "Say hello.", "Tell me a long story about a ship.", "Explain at length how bread is baked."
    params, inputs = spec([short, *long], {"travel": gentle_gguf}, base_folder, f16)
    with pytest.raises(TaskError, match="travel: generation: 1 of 3 answers passed, 2 must: "):
        task("verify", tmp_path / "report.json", params, inputs)
    assert not (tmp_path / "report.json").exists()
    params, inputs = spec(short, {"travel": gentle_gguf}, base_folder, f16)
    made = task("verify", tmp_path / "report.json", params | {"export": "travel-F16"}, inputs)
    assert made.artifact["name"] == "travel-F16"
    assert set(made.measurements) == {("answers_passed", "travel")}


def test_other_special_tokens_and_other_words_in_training_are_found(
    f16: Path, base_folder: Path, gentle_gguf: Path, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_folder, model)
    about = model / "tokenizer_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"eos_token": "<|endoftext|>"}))
    params, inputs = spec("What is the capital of France?", {"travel": gentle_gguf}, model, f16)
    message = r"travel: special tokens: smollm2, EOS is '<\|im_end\|>' \(2\) in the file, '<\|endoftext\|>' \(0\) in"
    with pytest.raises(TaskError, match=message):
        task("verify", tmp_path / "report.json", params, inputs)
    monkeypatch.setattr(parity, "AWKWARD", {"numbers": "a ½ b"})  # a difference there is, in the engine's own rules
    _, inputs = spec("What is the capital of France?", {"travel": gentle_gguf}, base_folder, f16)
    with pytest.raises(TaskError, match=r"travel: awkward text: smollm2, numbers 'a ½ b': token \d+ differs"):
        task("verify", tmp_path / "report.json", params, inputs)
