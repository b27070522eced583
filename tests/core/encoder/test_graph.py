"""Which encoders are read by bytes, and what is said of those that are not."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.encoder import Encoder, EncoderError
from core.encoder.channels import divisors
from core.encoder.graph_file import (
    BY_BYTES,
    BY_FLOATS,
    FLOATS,
    FORM,
    graph_of_file,
    graph_places,
    processor_suits,
    read_by,
    refusal_of,
)
from core.encoder.install import install_encoder
from core.encoder.make_graph import make
from core.encoder.place import package_folder
from core.encoder.remembered import RememberingEncoder
from core.errors import InvalidInput
from core.routing.crisis_model import ADAPTER
from tests.conftest import ROOT
from tests.models import embedded_gguf


@pytest.fixture
def instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes its processor for one that adds up products of bytes."""
    newer = tmp_path / "newer"
    newer.write_text("flags : avx512_vnni\n")
    monkeypatch.setattr("core.encoder.graph_file._PROCESSOR", newer)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers as a GGUF, with a name of its own."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(package_folder() / name, folder / name)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.encoder.place.sys", SimpleNamespace(prefix=str(folder.parent / "environment")))
        made, _ = install_encoder(folder)
    return made


def test_another_processor_reads_by_llama(tmp_path: Path, encoder_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "cpuinfo"
    monkeypatch.setattr("core.encoder.graph_file._PROCESSOR", older)
    for flags in (None, "flags\t\t: fpu avx2 avx512f\n"):
        if flags is not None:
            older.write_text(flags)
        assert read_by(encoder_file) == (
            f"{BY_FLOATS} (this processor has no instructions for sums of products of bytes)"
        )
    for flags in ("avx2 avx_vnni", "avx512_vnni fsrm"):
        older.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
        assert processor_suits()


def test_which_engine_reads_and_a_variable_for_the_other(encoder_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder(encoder_file) as one:
        one.start()
        assert one.reads == read_by(encoder_file)
        assert (one.reads == BY_BYTES) == processor_suits()
    monkeypatch.setenv("TARA_ENCODER_FLOATS", "1")
    with Encoder(encoder_file) as other:
        other.start()
        assert other.reads.startswith(BY_FLOATS)
        assert read_by(encoder_file) == f"{BY_FLOATS} (TARA_ENCODER_FLOATS is set)"


def test_nothing_is_reported_to_anyone(encoder: Encoder) -> None:
    """onnxruntime keeps a number for the machine and a queue of reports in the user's cache, where it is let."""
    encoder.embed(["hello"])
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "Microsoft").exists()


@pytest.mark.parametrize(("plain", "refused"), [(True, False), (False, True), (False, False)])
def test_what_bytes_cannot_read_is_read_in_floats(
    plain: bool, refused: bool, encoder: Encoder, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged graph, or one under the adapter that is refused or damaged: the same vectors, not none."""
    own = tmp_path / encoder_file.name
    shutil.copyfile(encoder_file, own)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (cached,) = graph_places(own, None if plain else ADAPTER)
    cached.parent.mkdir(parents=True)
    if refused:
        refusal_of(cached).write_text("too unlike")
    else:
        cached.write_bytes(b"no graph")
    with Encoder(own) as one:
        found = one.embed_adapted(["my knee hurts"], [None, ADAPTER])[0]
        assert one.reads.startswith(BY_FLOATS if plain or not processor_suits() else BY_BYTES)
    assert (found * encoder.embed_adapted(["my knee hurts"], [None, ADAPTER])[0]).sum(1).min() > 0.995


@pytest.mark.usefixtures("instructions")
def test_another_architecture_is_read_by_llama() -> None:
    assert read_by(embedded_gguf()) == f"{BY_FLOATS} (its architecture is llama, not bert)"


@pytest.mark.usefixtures("instructions")
def test_what_is_too_unlike_is_not_kept_and_says_so(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import core.encoder.make_graph as made\n"
        "import core.encoder.graph_file as graph_file; gguf = Path(sys.argv[1]); made.LEAST_LIKENESS = 1.5\n"
        "graph_file._PROCESSOR = Path(sys.argv[2]); graph_file._PROCESSOR.write_text('flags : avx_vnni')\n"
        "made.make(gguf, None); print(graph_file.read_by(gguf))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny), str(tmp_path / "cpuinfo")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip()
    assert said.startswith(f"{BY_FLOATS} (in bytes its vectors have a cosine of ")
    assert said.endswith(" to those in floats, 1.5 is asked)")
    (kept,) = (tmp_path / "tara/encoders").iterdir()
    assert kept.suffix == ".unlike"


@pytest.mark.usefixtures("instructions")
def test_an_adapter_of_another_encoder_is_refused(tiny: Path, encoder_file: Path) -> None:
    with pytest.raises(EncoderError, match=r"crisis_adapter\.gguf is no adapter of"):
        graph_of_file(tiny, ADAPTER)
    with pytest.raises(InvalidInput, match="not an adapter"):
        graph_of_file(tiny, encoder_file)
    with Encoder(tiny) as one:
        before = one.embed(["hello"])
        with pytest.raises(EncoderError, match="is no adapter of"):
            one.embed_adapted(["hello"], [ADAPTER])  # asked of the engine in floats, which refuses it too
        assert np.array_equal(one.embed(["hello"]), before)


def test_channels_are_made_even_and_the_product_stays() -> None:
    chance = np.random.default_rng(5)
    x = chance.normal(size=(20, 8)).astype(np.float32) * np.array([1, 1, 1, 40, 1, 1, 0.1, 1], np.float32)
    weight = chance.normal(size=(5, 8)).astype(np.float32)
    reached = np.stack([x.min(axis=0), x.max(axis=0)])
    by = divisors(reached, weight)
    assert np.allclose((x / by) @ (weight * by).T, x @ weight.T, atol=1e-4)
    even, uneven = (np.abs(one).max(axis=0) for one in (x / by, x))
    assert even.max() / even.min() < 0.2 * uneven.max() / uneven.min()
    assert np.isfinite(divisors(np.zeros((2, 8), np.float32), np.zeros((5, 8), np.float32))).all()


def test_what_an_older_program_made_goes_and_what_a_newer_one_made_stays(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (target,) = graph_places(tiny, None)
    target.parent.mkdir(parents=True)
    stem, form = target.name.removesuffix(f".bytes-{FORM}.onnx"), FORM + 1
    gone = [f"{stem}.bytes-1.onnx", f"{stem}.bytes-1.unlike"]
    kept = [f"{stem}.bytes-{form}.onnx", f"{stem}-0123.bytes-1.onnx", f"{stem}.other.gguf", "encoder-00.bytes-1.onnx"]
    for name in (*gone, *kept):
        (target.parent / name).write_text("of another program")
    make(tiny, None)
    assert {path.name for path in target.parent.iterdir()} == {target.name, *kept}


def test_what_was_read_by_bytes_and_in_floats_is_kept_apart(
    encoder: Encoder, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    RememberingEncoder(encoder).embed(["hello"])
    ways = {f"bytes-{FORM}" if processor_suits() else "floats"}
    assert RememberingEncoder(encoder).unknown(["hello", "you"]) == ["you"]
    monkeypatch.setenv("TARA_ENCODER_FLOATS", "1")
    with Encoder(encoder_file) as other:
        assert RememberingEncoder(other).unknown(["hello"]) == ([] if "floats" in ways else ["hello"])
        RememberingEncoder(other).embed(["hello"])
    identity = encoder.identity[:16]
    assert {path.name for path in (tmp_path / "tara").glob("vectors-*")} == {
        f"vectors-{identity}-{way}.json" for way in {*ways, "floats"}
    }


def test_what_was_read_otherwise_than_expected_is_not_kept(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a graph is damaged, and llama.cpp reads in its place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = FLOATS if processor_suits() else f"bytes-{FORM}"
    monkeypatch.setattr("core.encoder.remembered.kept_by", lambda _: other)
    remembering = RememberingEncoder(encoder)
    assert remembering.embed(["hello"]).shape == (1, encoder.dimension)
    assert remembering.unknown(["hello"]) == ["hello"]


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_texts_unlike_those_a_graph_was_made_from_are_read_as_in_floats(
    encoder_file: Path, monkeypatch: pytest.MonkeyPatch, adapter: Path | None
) -> None:
    texts = [
        "我的电脑打不开了" * 5,
        "😀😭🔥" * 20,
        "\x00\x01",
        "",
        "!" * 40,
        "the " * 250,
        "a" * 300,
        "Не знаю",
        "1e-12 " * 30,
    ]
    with Encoder(encoder_file) as by_bytes:
        found = by_bytes.embed_adapted(texts, [adapter])[:, 0]
        assert (graph_of_file(encoder_file, adapter).file is not None) == processor_suits()
        assert by_bytes.reads.startswith(BY_BYTES if processor_suits() else BY_FLOATS)
    monkeypatch.setenv("TARA_ENCODER_FLOATS", "1")
    with Encoder(encoder_file) as by_floats:
        expected = by_floats.embed_adapted(texts, [adapter])[:, 0]
        assert by_floats.reads.startswith(BY_FLOATS)
    assert (found * expected).sum(1).min() > 0.99


def test_what_is_done_meanwhile_is_done_once_and_its_faults_lose_no_answer(encoder: Encoder) -> None:
    expected, called = encoder.embed(["hello", "a knee"]), []
    seen = encoder.embed(["hello", *["more"] * 20, "a knee"], meanwhile=lambda: called.append(1))
    assert called == [1]
    assert np.array_equal(seen[[0, -1]], expected)

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encoder.embed(["something else"], meanwhile=fails)
    assert np.array_equal(encoder.embed(["hello", "a knee"]), expected)


def test_an_interrupted_wait_leaves_no_answer_for_the_next_text(
    encoder_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Encoder(encoder_file) as one:
        expected = one.embed(["how do I bake bread"])
        with monkeypatch.context() as patch:

            def interrupted(*_: object) -> bytes:
                raise KeyboardInterrupt

            patch.setattr("core.encoder.client._Child._line", interrupted)
            with pytest.raises(KeyboardInterrupt):
                one.embed(["my knee hurts"])
        assert np.array_equal(one.embed(["how do I bake bread"]), expected)


def test_what_fails_meanwhile_is_said_also_where_the_child_ended(encoder_file: Path) -> None:
    with Encoder(encoder_file) as one:
        one.start()
        assert one.pid is not None

        def fails(pid: int = one.pid) -> None:
            os.kill(pid, signal.SIGKILL)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            one.embed(["something"], meanwhile=fails)
        assert len(one.embed(["something"])) == 1
