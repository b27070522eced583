"""The real embedded base through convert, quantize, adapter-convert and the runtime."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from core.errors import InvalidInput, Refused
from core.gguf.gate import check_generation
from core.gguf.inspect import inspect_gguf
from core.gguf.outline import outline
from core.gguf.quantizer import QUANTIZATIONS, predicted_size, quantize
from core.gguf.runtime import EngineError, Runtime
from core.gguf.sampling import Sampling
from core.tasks.context import TaskError
from tests.core.gguf.conftest import Task
from tests.models import embedded_gguf

MESSAGES = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def runtime(f16: Path):
    with Runtime(f16, n_ctx=512, threads=2) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def nothing_attached(request: pytest.FixtureRequest):
    yield
    if "runtime" in request.fixturenames:
        request.getfixturevalue("runtime").attach(None)


def test_the_converted_base_is_f16_with_its_chat_template(f16: Path, base_folder: Path) -> None:
    info = inspect_gguf(f16)
    assert (info.file_type, info.architecture, info.parameters) == ("F16", "llama", 134_515_008)
    assert info.types == {"F16": 211, "F32": 61}
    assert info.chat_template == (base_folder / "chat_template.jinja").read_text()
    assert [path.name for path in f16.parent.iterdir()] == [f16.name]


@functools.cache
def outlined() -> dict[str, Any]:
    """What is told of the files of the embedded base before it is even prepared."""
    return outline(embedded_gguf())


@pytest.mark.parametrize("quantization", sorted(QUANTIZATIONS))
def test_quantized_files_are_what_was_asked_for_and_as_large_as_predicted(
    f16: Path, tmp_path: Path, task: Task, quantization: str
) -> None:
    predicted, told = predicted_size(f16, quantization), outlined()["sizes"][quantization]
    out = tmp_path / f"smollm2-{quantization}.gguf"
    made = task("quantize", out, {"name": "smollm2", "type": quantization}, {"gguf": f16})
    info = inspect_gguf(out)
    assert info.file_type == quantization
    assert made.measurements["bytes", ""] == info.bytes == out.stat().st_size
    assert made.artifact["meta"]["types"] == predicted.types == told["types"] == info.types
    assert told["bytes"] == pytest.approx(info.bytes, rel=0.01)  # from the header of the base's own file alone
    assert made.measurements["predicted_bytes", ""] == predicted.bytes
    assert abs(predicted.bytes - info.bytes) < 256  # the header gains or loses a key
    # Rows of 576 hold no blocks of 256; ffn_down's rows of 1536 do.
    fallbacks = {"Q8_0": 0}.get(quantization, 181)
    assert made.measurements["fallback_tensors", ""] == predicted.fallback_tensors == info.fallback_tensors == fallbacks
    assert made.measurements["bits_per_weight", ""] == pytest.approx(info.bits_per_weight, abs=1e-3)
    assert made.progress[-1]["step"] == made.progress[-1]["total"] == 272
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".gguf"] == [out.name]


def test_quantizing_what_is_quantized_or_unknown_is_refused(f16: Path, tmp_path: Path, task: Task) -> None:
    with pytest.raises(InvalidInput, match="quantized already"):
        task("quantize", tmp_path / "a.gguf", {"name": "a", "type": "Q4_K_M"}, {"gguf": embedded_gguf()})
    with pytest.raises(TaskError, match="Q3_K_S") as failure:
        task("quantize", tmp_path / "a.gguf", {"name": "a", "type": "Q3_K_S"}, {"gguf": f16})
    assert failure.value.hint is not None
    assert all(name in failure.value.hint for name in ("Q2_K", "Q4_K_M", "Q5_K_M", "Q8_0"))
    assert not list(tmp_path.glob("*.gguf"))


def test_a_stop_signal_during_native_work_is_not_lost(f16: Path, tmp_path: Path) -> None:
    def stop(at: int, _total: int, _name: str) -> None:
        if at == 3:
            raise KeyboardInterrupt  # as a signal handler does that runs while C calls back

    with pytest.raises(KeyboardInterrupt):
        quantize(f16, tmp_path / "x.gguf", "Q8_0", threads=2, on_tensor=stop)
    assert inspect_gguf(f16).file_type == "F16"
    quantize(f16, tmp_path / "y.gguf", "Q8_0", threads=2)


def test_an_adapter_file_names_its_base_and_domain(adapter_gguf: Path, base_sha256: str) -> None:
    info = inspect_gguf(adapter_gguf)
    assert info.kind == "adapter"
    assert info.metadata["tara.base.sha256"] == base_sha256
    assert info.metadata["tara.base.name"] == "smollm2"
    assert info.metadata["tara.domain"] == "random"
    assert len(info.metadata["tara.adapter.sha256"]) == 64
    assert info.metadata["adapter.lora.alpha"] == 16
    assert info.types == {"F16": 2 * 7 * 30}
    assert [path.name for path in adapter_gguf.parent.iterdir()] == [adapter_gguf.name]


def test_an_adapter_of_another_base_is_refused_with_both_names(
    base_folder: Path, base_sha256: str, random_adapter: Path, tmp_path: Path, task: Task
) -> None:
    adapter = tmp_path / "stranger"
    shutil.copytree(random_adapter, adapter)
    (adapter / "tara.json").write_text(json.dumps({"base": {"name": "qwen-half", "sha256": "c" * 64}}))
    with pytest.raises(TaskError, match=rf"qwen-half .*cccccccccccc.* smollm2 .*{base_sha256[:12]}"):
        task(
            "adapter-convert",
            tmp_path / "x.gguf",
            {"domain": "x", "base_sha256": base_sha256, "base_name": "smollm2"},
            {"base": base_folder, "adapter": adapter},
        )


def test_chat_renders_the_tokens_training_renders(runtime: Runtime, base_folder: Path) -> None:
    from core.training.base import load_tokenizer
    from core.training.render import render_tokens

    tokenizer = load_tokenizer(base_folder)
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": "Paris.\n\n  Ünïcode — 🙂"},
        {"role": "user", "content": " and <b>now</b>? "},
    ]
    for messages in (MESSAGES, MESSAGES[1:], turns):
        assert runtime.render(messages) == render_tokens(tokenizer, messages, generation_prompt=True)


def test_an_adapter_changes_the_logits_and_leaves_no_trace(
    runtime: Runtime, adapter_gguf: Path, base_sha256: str
) -> None:
    tokens = runtime.render(MESSAGES)
    plain = runtime.logits(tokens)
    assert np.array_equal(runtime.logits(tokens), plain)
    runtime.attach(adapter_gguf, base_sha256=base_sha256)
    adapted = runtime.logits(tokens)
    assert np.max(np.abs(adapted - plain)) > 0.5
    runtime.attach(None)
    assert np.array_equal(runtime.logits(tokens), plain)
    runtime.attach(adapter_gguf)
    assert np.array_equal(runtime.logits(tokens), adapted)


def test_a_switch_in_the_middle_of_a_conversation_forgets_the_other_adapters_keys(
    runtime: Runtime, adapter_gguf: Path
) -> None:
    tokens = runtime.render(MESSAGES)
    fresh = runtime.generate(tokens, max_tokens=24).finish()
    runtime.attach(adapter_gguf)
    other = runtime.generate(tokens, max_tokens=24).finish()
    runtime.attach(None)
    again = runtime.generate(tokens, max_tokens=24).finish()
    assert other.tokens != fresh.tokens
    assert again.tokens == fresh.tokens
    assert again.reused_tokens == 0


def test_base_with_adapter_says_what_the_merged_model_says(
    runtime: Runtime, adapter_gguf: Path, base_folder: Path, random_adapter: Path, tmp_path: Path, task: Task
) -> None:
    import torch

    from core.training.base import load_model, load_tokenizer
    from core.training.lora import load_adapter

    folder = tmp_path / "merged"
    merged = load_adapter(load_model(base_folder, torch.float32), random_adapter).merge_and_unload()
    merged.save_pretrained(folder)
    load_tokenizer(base_folder).save_pretrained(folder)
    out = tmp_path / "merged.gguf"
    task("convert", out, {"name": "merged"}, {"model": folder})
    runtime.attach(adapter_gguf)
    with Runtime(out, n_ctx=512, threads=2) as whole:
        for question in ("Name three colours.", "How do I boil an egg?"):
            tokens = runtime.render([{"role": "user", "content": question}])
            # Both round to F16, one the sum and one its parts: the logits, whose spread is 3, agree to that.
            assert np.max(np.abs(runtime.logits(tokens) - whole.logits(tokens))) < 0.1
            ours = runtime.generate(tokens, max_tokens=32).finish()
            theirs = whole.generate(tokens, max_tokens=32).finish()
            assert ours.text == theirs.text


def test_generation_reports_text_reason_and_timings(runtime: Runtime) -> None:
    tokens = runtime.render(MESSAGES)
    answer = runtime.generate(tokens, max_tokens=64)
    pieces = list(answer)
    assert "".join(pieces) == answer.text
    assert "Paris" in answer.text
    assert answer.stopped_by == "eos"
    assert answer.prompt_tokens == len(tokens)
    assert check_generation(answer.text, answer.tokens, answer.stopped_by) == ()
    assert answer.first_token_s is not None
    assert answer.first_token_s > 0
    assert answer.tokens_per_s is not None
    assert answer.tokens_per_s > 0


def test_limits_stop_words_and_cancelling_end_an_answer(runtime: Runtime) -> None:
    tokens = runtime.render([{"role": "user", "content": "Tell me a long story about the sea."}])
    short = runtime.generate(tokens, max_tokens=5).finish()
    assert (short.stopped_by, len(short.tokens)) == ("length", 5)
    assert short.tokens_per_s is not None
    word = short.text.split()[1]
    stopped = runtime.generate(tokens, max_tokens=5, stop=[word]).finish()
    assert stopped.stopped_by == "stop"
    assert word not in stopped.text
    left = runtime.generate(tokens, max_tokens=50)
    for piece in left:
        assert piece
        break
    asked = runtime.generate(tokens, max_tokens=50, cancelled=lambda: True).finish()
    assert (asked.stopped_by, asked.tokens) == ("cancelled", [])
    assert runtime.generate(tokens, max_tokens=5).finish().text == short.text


def test_the_next_turn_evaluates_no_whole_step_again_and_says_the_same(runtime: Runtime) -> None:
    """To the last bit: sampled at a high temperature, the smallest difference would be another answer."""
    wild = Sampling(temperature=1.5, seed=3)
    asked = [{"role": "user", "content": "Remember these words: " + "stone river bird " * 90}]
    first = runtime.render(asked)
    assert 256 < len(first) < 320
    answer = runtime.generate(first, max_tokens=24, sampling=wild).finish()
    turns = [*asked, {"role": "assistant", "content": answer.text}, {"role": "user", "content": "And of Spain?"}]
    second = runtime.render(turns)
    reused = runtime.generate(second, max_tokens=24, sampling=wild).finish()
    assert reused.reused_tokens == 256
    runtime.logits(second[1:4])  # something else in between
    fresh = runtime.generate(second, max_tokens=24, sampling=wild).finish()
    assert fresh.reused_tokens == 0
    assert fresh.tokens == reused.tokens


def test_sampling_follows_its_seed(runtime: Runtime) -> None:
    tokens = runtime.render([{"role": "user", "content": "Tell me a story."}])

    def sampled(seed: int) -> list[int]:
        answer = runtime.generate(tokens, max_tokens=24, sampling=Sampling(temperature=1.0, seed=seed)).finish()
        assert answer.reused_tokens == 0
        return list(answer.tokens)

    one, same, other = sampled(1), sampled(1), sampled(2)
    assert one == same
    assert one != other


def test_a_prompt_that_does_not_fit_is_refused_and_the_context_end_is_a_limit(runtime: Runtime) -> None:
    with pytest.raises(EngineError, match="512"):
        runtime.generate(list(range(10, 522)), max_tokens=1)
    tokens = (runtime.tokenize("The sea is wide and the ship is small. ") * 60)[:505]
    answer = runtime.generate(tokens, max_tokens=100).finish()
    assert answer.stopped_by in ("length", "eos")
    assert len(answer.tokens) <= 8


def test_wrong_adapters_are_refused_and_leave_the_base_bare(
    runtime: Runtime, adapter_gguf: Path, base_sha256: str, f16: Path, tmp_path: Path
) -> None:
    tokens = runtime.render(MESSAGES)
    plain = runtime.logits(tokens)
    runtime.attach(adapter_gguf)
    with pytest.raises(Refused, match=rf"smollm2 \({base_sha256[:12]}\).*aaaaaaaaaaaa"):
        runtime.attach(adapter_gguf, base_sha256="a" * 64)
    assert np.array_equal(runtime.logits(tokens), plain)
    with pytest.raises(InvalidInput, match="not an adapter"):
        runtime.attach(f16)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(adapter_gguf.read_bytes()[:-4096])
    with pytest.raises(InvalidInput, match="cut off"):
        runtime.attach(cut)
    foreign = tmp_path / "foreign.gguf"
    writer = gguf.GGUFWriter(foreign, "qwen2")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((8, 576), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineError, match="arch mismatch"):
        runtime.attach(foreign)
    with pytest.raises(InvalidInput, match="cannot be read"):
        runtime.attach(tmp_path / "none.gguf")
    assert np.array_equal(runtime.logits(tokens), plain)


def test_more_adapters_than_are_kept_warm(f16: Path, adapter_gguf: Path, tmp_path: Path) -> None:
    copies = [shutil.copy(adapter_gguf, tmp_path / f"{number}.gguf") for number in range(3)]
    with Runtime(f16, n_ctx=128, threads=2, warm_adapters=1) as small:
        tokens = small.render(MESSAGES)
        results = []
        for copy in [*copies, copies[0]]:
            small.attach(copy)
            results.append(small.logits(tokens))
        assert all(np.array_equal(one, results[0]) for one in results)
    small.close()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, adapter_gguf: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello, this is not a model at all")
    with pytest.raises(InvalidInput, match="letters GGUF"):
        Runtime(tmp_path / "text.gguf")
    with pytest.raises(InvalidInput, match="is an adapter"):
        Runtime(adapter_gguf)
    writer = gguf.GGUFWriter(tmp_path / "hollow.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(EngineError, match="could not load"):
        Runtime(tmp_path / "hollow.gguf")
