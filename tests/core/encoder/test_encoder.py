"""The sentence encoder on its real file: equal to the reference, hostile texts, crashes, its parent's end, memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from core.encoder import Encoder, EncoderError, find_encoder
from core.encoder.engine import threads_now
from core.encoder.graph_file import BY_BYTES, processor_suits, read_by
from core.encoder.install import install_encoder
from core.encoder.place import file_name, folder_identity, package_folder
from core.errors import EnvironmentLacks, InvalidInput
from core.routing.crisis_model import ADAPTER
from tests.conftest import ROOT
from tests.core.cli.command import tara

TEXTS = (
    "I have a medical emergency and need help",
    "How should I lead my team through a reorganisation when everyone is tired?",
    "don't, can't… “naïve” Café déjà-vu — Zürich’s ﬁne",
    "日本語のテキスト and русский",
    "😀 👩\u200d👩\u200d👧 a\u0301",
    "",
    "word " * 700,
    f"see {'ha' * 400} and https://example.com/{'a1' * 120} for 3.14 % of it",
)
HOSTILE = (
    "",
    " \n\t ",
    "😀" * 300,
    "x" * 10_000,
    "日" * 10_000,
    "a b " * 2_500,
    "half a pair \ud83d and \udc00",
    "\x00\x01\x7f\ufeff\u202e",
    "[CLS] [SEP] [PAD] <s> </s> <|endoftext|>",
)
MOST_MEMORY = 150e6  # bytes
LIKE_BYTES = 0.996 if processor_suits() else 0.999  # cosine, of the least like text


def reference(folder: Path, texts: tuple[str, ...]) -> np.ndarray:
    """What transformers makes of the texts with the same weights: the mean of the last states, at length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state
        mean = states[0].mean(0).numpy()
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


@pytest.fixture(scope="module")
def by_floats(encoder_file: Path) -> Iterator[Encoder]:
    """The same file read by llama.cpp, as on a processor without the instructions."""
    with Encoder(encoder_file) as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TARA_ENCODER_FLOATS", "1")
            running.start()
        yield running


@pytest.mark.parametrize(("engine", "least"), [("encoder", LIKE_BYTES), ("by_floats", 0.999)])
def test_vectors_equal_the_reference(engine: str, least: float, request: pytest.FixtureRequest) -> None:
    one: Encoder = request.getfixturevalue(engine)
    ours, theirs = one.embed(TEXTS), reference(package_folder(), TEXTS)
    assert ours.shape == (len(TEXTS), 384)
    assert ours.dtype == np.float32
    cosines = (ours * theirs).sum(1)
    assert cosines.min() > least, dict(zip(TEXTS, cosines.round(4), strict=True))


def test_under_an_adapter_both_engines_read_the_same(encoder: Encoder, by_floats: Encoder) -> None:
    assert (by_floats.reads, by_floats.identity) == (
        "llama.cpp, in floats (TARA_ENCODER_FLOATS is set)",
        encoder.identity,
    )
    ours, theirs = (one.embed_adapted(TEXTS, [ADAPTER])[:, 0] for one in (encoder, by_floats))
    assert (ours * theirs).sum(1).min() > LIKE_BYTES


def test_hostile_texts_have_vectors_of_length_one(encoder: Encoder) -> None:
    rows = encoder.embed(HOSTILE)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_text_has_the_same_vector_in_any_company(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.embed([text]) for text in TEXTS])
    assert np.array_equal(encoder.embed([*TEXTS, *reversed(TEXTS)])[: len(TEXTS)], alone)


def test_an_adapter_has_vectors_beside_the_plain_ones(encoder: Encoder, encoder_file: Path) -> None:
    both = encoder.embed_adapted(TEXTS, [None, ADAPTER])
    assert both.shape == (len(TEXTS), 2, 384)
    assert np.array_equal(both[:, 0], encoder.embed(TEXTS))
    assert np.allclose(np.linalg.norm(both[:, 1], axis=1), 1, atol=1e-5)
    assert (both[:, 0] * both[:, 1]).sum(1).max() < 0.99
    assert np.array_equal(encoder.embed_adapted(TEXTS, [ADAPTER])[:, 0], both[:, 1])
    assert np.array_equal(encoder.embed(TEXTS), both[:, 0])  # the adapter is on no other context
    with pytest.raises(EncoderError, match="not an adapter"):
        encoder.embed_adapted(["hello"], [encoder_file])
    assert np.array_equal(encoder.embed(TEXTS), both[:, 0])


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, 384)


def test_memory(encoder: Encoder) -> None:
    encoder.embed_adapted(HOSTILE, [None, ADAPTER])  # the longest it reads
    assert encoder.pid is not None
    status = Path(f"/proc/{encoder.pid}/status").read_text("ascii")
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    assert int(peak) * 1024 < MOST_MEMORY


def test_no_more_threads_than_processors_that_are_free() -> None:
    processors = os.cpu_count() or 1
    assert 1 <= threads_now(processors, processors) <= processors
    assert threads_now(1, processors) == 1
    busy = [
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
        for _ in range(processors)
    ]
    try:
        for one in busy:
            assert one.stdout is not None
            assert one.stdout.readline() == b"\n"
        assert threads_now(processors, processors) == 1
    finally:
        for one in busy:
            one.kill()
            one.communicate()


def test_several_threads_get_their_own_answers(encoder: Encoder) -> None:
    expected = encoder.embed(TEXTS)
    wrong: list[str] = []

    def ask(at: int) -> None:
        if not np.array_equal(encoder.embed([TEXTS[at]])[0], expected[at]):
            wrong.append(TEXTS[at])

    threads = [threading.Thread(target=ask, args=(at % len(TEXTS),)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_killed_process_is_replaced(encoder_file: Path) -> None:
    with Encoder(encoder_file) as one:
        before = one.embed(["hello"])
        first = one.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert np.array_equal(one.embed(["hello"]), before)
        second = one.pid
        assert second != first
    assert second is not None
    assert not psutil.pid_exists(second)


def test_it_ends_with_its_parent(encoder_file: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from core.encoder import Encoder\n"
        "one = Encoder(Path(sys.argv[1])); one.embed(['hello']); print(one.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(encoder_file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    child = int(done.stdout)
    if psutil.pid_exists(child):
        psutil.Process(child).wait(10)


def test_another_file_is_refused_in_one_line(tmp_path: Path, encoder_file: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(encoder_file.read_bytes()[: -(1 << 20)])
    with pytest.raises((EncoderError, InvalidInput)) as told, Encoder(cut) as one:
        one.embed(["hello"])
    assert "cut.gguf" in str(told.value)
    assert "\n" not in told.value.one_line()


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BERT with the shipped tokenizer: converted once, named by its content, equal to its reference."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(package_folder() / name, folder / name)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    monkeypatch.setenv("TARA_ENCODER", str(folder))
    monkeypatch.setattr("core.encoder.place.sys", SimpleNamespace(prefix=str(tmp_path / "environment")))
    with pytest.raises(EnvironmentLacks, match="not installed"):
        find_encoder()
    path, made = install_encoder(folder)
    assert made
    assert path == find_encoder()
    assert path.name == file_name("mine", folder_identity(folder))
    assert install_encoder(folder) == (path, False)
    with Encoder(path) as own:  # the folder does not say how to pool, so it is the mean
        assert own.dimension == 32
        assert (own.embed(TEXTS[:3]) * reference(folder, TEXTS[:3])).sum(1).min() > 0.999


def test_the_setting(tmp_path: Path, encoder_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TARA_ENCODER", raising=False)
    assert find_encoder("none") is None
    assert find_encoder(str(encoder_file)) == encoder_file
    with pytest.raises(EnvironmentLacks, match=r"there is no sentence encoder .*gone\.gguf"):
        find_encoder(str(tmp_path / "gone.gguf"))
    (tmp_path / "text.gguf").write_text("not one")
    with pytest.raises(InvalidInput, match="no GGUF"):
        find_encoder(str(tmp_path / "text.gguf"))
    monkeypatch.setenv("TARA_ENCODER", "none")
    assert find_encoder(str(encoder_file)) is None


def test_the_command(tmp_path: Path, encoder_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARA_ENCODER", str(encoder_file))
    shown = tara("encoder", "show", "--json", cwd=tmp_path).json()
    assert shown == {
        "file": str(encoder_file),
        "identity": Encoder(encoder_file).identity,
        "dimension": 384,
        "bytes": encoder_file.stat().st_size,
        "read_by": BY_BYTES if processor_suits() else read_by(encoder_file),
        "crisis_gate": True,
    }
    foreign = tmp_path / "foreign.gguf"
    foreign.symlink_to(encoder_file)  # by its name it is not the shipped one
    monkeypatch.setenv("TARA_ENCODER", str(foreign))
    assert "crisis gate finds far less" in tara("encoder", "show", cwd=tmp_path).out
    checks = json.loads(tara("doctor", "--json", cwd=tmp_path).out)["checks"]
    (check,) = [one for one in checks if one["name"] == "encoder"]
    assert (check["state"], "crisis gate finds far less" in check["found"]) == ("warning", True)
    monkeypatch.setenv("TARA_ENCODER", "none")
    assert "switched off" in tara("encoder", "show", cwd=tmp_path).out
    monkeypatch.setenv("TARA_ENCODER", str(tmp_path / "gone.gguf"))
    gone = tara("encoder", "show", cwd=tmp_path)
    assert gone.status == 5
    assert "gone.gguf" in gone.err
