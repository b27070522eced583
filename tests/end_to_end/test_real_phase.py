"""A phase on the real embedded model, by the documented commands, from nothing to a release that answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import InvalidInput
from core.gguf.inspect import inspect_gguf
from core.workspace import Workspace
from tara_tui.store_backend import StoreBackend
from tests.conftest import end_everything

TARA = Path(sys.executable).with_name("tara")
DOMAINS = ("healthcare", "creative")
STEPS = 12  # enough for a loss that falls clearly; the quickstart trains longer


def tara(workspace: Workspace, *arguments: str, status: int = 0) -> str:
    """Run a command; its standard output. Fails the test on another exit status."""
    done = subprocess.run(
        [TARA, "--root", workspace.root, *arguments], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def read(workspace: Workspace, *arguments: str) -> Any:
    """Run a command with --json; its value."""
    return json.loads(tara(workspace, *arguments, "--json"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace in which phase 1 was built and deployed by commands."""
    root = tmp_path_factory.mktemp("real") / "workspace"
    subprocess.run([TARA, "init", root], check=True, capture_output=True)
    workspace = Workspace(root)
    presets = workspace.configs / "presets.yaml"
    settings = yaml.safe_load(presets.read_text("utf-8"))
    settings["starter"]["max_steps"] = STEPS
    presets.write_text(yaml.safe_dump(settings), "utf-8")
    try:
        tara(workspace, "create-phase", "1", "--domains", ",".join(DOMAINS))
        tara(workspace, "build-phase", "1", "--quantization", "Q4_K_M")
        tara(workspace, "deploy-phase", "1", "--target", str(root / "out"))
        yield workspace
    finally:
        end_everything(workspace)


def release(workspace: Workspace) -> Path:
    return workspace.root / "out" / "current"


def test_every_domain_is_measurably_better_than_its_base(built: Workspace) -> None:
    phase = read(built, "show-phase", "1")
    assert phase["state"] == "deployed"
    assert [domain["name"] for domain in phase["domains"]] == list(DOMAINS)
    for domain in phase["domains"]:
        assert domain["status"] == "complete"
        assert not domain["status_declared"]
        assert 0 < domain["tuned_loss"] < 0.97 * domain["base_loss"]
        assert 0 < domain["quality"] < 1
        assert domain["measured"]["quality"]["n"] > 100
        assert "held-out" in domain["measured"]["quality"]["method"]
        assert domain["measured"]["quality"]["measured_at"].startswith("20")


def test_what_jobs_were_expected_to_take_is_near_what_they_took(built: Workspace) -> None:
    """Estimates that are too low let too much in; those far too high keep a small machine waiting."""
    seen = set()
    for job in read(built, "jobs", "list"):
        record = json.loads((built.absolute(job["run_dir"]) / "exit.json").read_text("utf-8"))
        peak = record["peak_rss_bytes"]
        if job["kind"] != "deploy":
            assert 0.9 * peak < job["memory_bytes"] < 2.5 * peak, (job["kind"], job["memory_bytes"], peak)
        seen.add(job["kind"])
    assert seen == {
        "base", "train", "evaluate", "convert", "adapter-convert", "imatrix", "quantize", "verify", "package", "deploy",
    }  # fmt: skip


def test_predictions_were_made_before_and_are_checked_after(built: Workspace) -> None:
    found = read(built, "plan", "check", "--phase", "1")
    assert {job["kind"] for job in found["jobs"]} >= {"base", "train", "evaluate", "convert", "quantize", "verify"}
    for job in found["jobs"]:
        assert -0.6 < job["memory_error"] < 0.15, job
        assert -0.8 < job["seconds_error"] < 4, job  # the machine is not for these jobs alone
    assert [kind["jobs"] for kind in found["kinds"] if kind["kind"] == "train"] == [len(DOMAINS)]


def test_sizes_were_told_beforehand(built: Workspace) -> None:
    sizes = read(built, "plan", "check")["sizes"]
    assert sizes
    assert all(abs(one["error"]) < 0.01 for one in sizes)
    ranked = read(built, "recommend", "1")["choices"]
    assert len(ranked) == 17  # four types by four techniques, and the base's own file
    (there,) = [one for one in ranked if one["built"]]
    assert (there["quantization"], there["technique"], there["bytes"]["by"]) == ("Q4_K_M", "standard", "measured")
    assert abs(there["prediction_error"]) < 0.01
    assert ranked[0]["recommended"]


def test_the_release_is_whole_and_of_the_type_its_header_says(built: Workspace) -> None:
    manifest = json.loads((release(built) / "manifest.json").read_text("utf-8"))
    (base,) = manifest["bases"].values()
    info = inspect_gguf(release(built) / base["file"])
    assert info.file_type == "Q4_K_M" == base["file_type"]
    assert set(manifest["domains"]) == set(DOMAINS)
    tara(built, "validate", str(built.root / "out"))


def test_the_release_runs_in_llama_cpp_alone(built: Workspace) -> None:
    """Loaded by the engine's own library, with nothing of TARA imported; each adapter changes the logits."""
    script = """
import ctypes, json, sys
import llama_cpp, numpy as np
folder = sys.argv[1]
manifest = json.load(open(folder + "/manifest.json"))
(base,) = manifest["bases"].values()
llm = llama_cpp.Llama(folder + "/" + base["file"], n_ctx=256, verbose=False)
def logits(adapter):
    if adapter is None:
        llama_cpp.llama_set_adapters_lora(llm._ctx.ctx, None, 0, None)
    else:
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        llama_cpp.llama_set_adapters_lora(llm._ctx.ctx, handles, 1, (ctypes.c_float * 1)(1.0))
    llm.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llm._ctx.ctx), True)
    llm.eval(llm.tokenize(b"How do I sleep better?"))
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm._ctx.ctx, -1), (llm.n_vocab(),)).copy()
plain = logits(None)
found = {}
for name, entry in manifest["domains"].items():
    adapter = llama_cpp.llama_adapter_lora_init(llm._model.model, (folder + "/" + entry["adapter"]).encode())
    assert adapter, name
    found[name] = float(abs(logits(adapter) - plain).max())
assert float(abs(logits(None) - plain).max()) == 0.0
assert not any(name.split(".")[0] in ("core", "tara_tui") for name in sys.modules)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, release(built)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout.splitlines()[-1])
    assert set(changes) == set(DOMAINS)
    assert all(change > 0.1 for change in changes.values())


def test_adapter_on_base_answers_as_the_merged_export(built: Workspace) -> None:
    """On f16, where neither side is rounded further: the same greedy text from both."""
    from core.gguf.runtime import Runtime

    told = read(built, "export-domain", DOMAINS[0])
    exported = Path(told["path"])
    (verified,) = told["verification"]
    assert (verified["domain"], verified["asked"], verified["needed"]) == (DOMAINS[0], 3, 2)
    assert verified["passed"] >= 2
    assert [one["asked"] for one in read(built, "show-phase", "1")["verification"]] == [3, 3]
    assert inspect_gguf(exported).file_type == "F16"
    (base,) = built.artifacts.glob("gguf/starter-135M-F16-*.gguf")
    (adapter,) = built.artifacts.glob(f"gguf-adapter/{DOMAINS[0]}-*.gguf")
    messages = [{"role": "user", "content": "I slept badly for a week. What can I do tonight?"}]

    def greedy(model: Path, lora: Path | None) -> str:
        with Runtime(model, n_ctx=512, threads=2) as runtime:
            runtime.attach(lora)
            return "".join(runtime.generate(runtime.render(messages), max_tokens=60))

    together, merged, plain = greedy(base, adapter), greedy(exported, None), greedy(base, None)
    assert together == merged
    assert together != plain


def test_a_second_build_has_nothing_to_do(built: Workspace) -> None:
    before = read(built, "jobs", "list")
    assert "nothing to do" in tara(built, "build-phase", "1", "--quantization", "Q4_K_M")
    assert "current version" in tara(built, "deploy-phase", "1", "--target", str(built.root / "out"))
    assert read(built, "jobs", "list") == before


def test_a_question_is_routed_and_answered(built: Workspace) -> None:
    asked = read(built, "chat", "I have a bad headache and a fever. What should I do?", "--max-tokens", "60")
    assert asked["domain"] == "healthcare"
    assert len(asked["answer"].split()) > 5
    assert asked["tokens_per_s"] > 0
    terms = asked["decision"]["weights"]
    best = asked["decision"]["candidates"][0]
    assert abs(best["total"] - sum(terms[name] * best[name] for name in terms)) < 1e-9


def test_another_type_deploys_and_rolls_back(built: Workspace) -> None:
    tara(built, "build-phase", "1", "--quantization", "Q8_0")
    assert read(built, "deploy-phase", "1", "--target", str(built.root / "out"))["version"] == 2
    (base,) = (release(built)).glob("base-*.gguf")
    assert inspect_gguf(base).file_type == "Q8_0"
    back = read(built, "rollback", "1", "--target", str(built.root / "out"))
    assert (back["from"], back["to"]) == (2, 1)
    assert os.readlink(release(built)).endswith("1")
    phase = read(built, "show-phase", "1")
    assert [one["version"] for one in phase["releases"] if one["active"]] == [1]


def test_without_its_store_all_of_it_is_found_again(built: Workspace) -> None:
    """The last of these: built, deployed twice and rolled back, then state.db is deleted."""
    phase, jobs = read(built, "show-phase", "1"), read(built, "jobs", "list")
    tara(built, "runner", "stop")
    for path in built.root.glob("state.db*"):
        path.unlink()
    told = read(built, "doctor", "--rebuild", "--yes")
    assert told["done"]
    assert told["jobs"] == {"succeeded": len(jobs)}
    assert read(built, "show-phase", "1") == phase
    names = ("id", "kind", "title", "state", "key", "attempt", "exit_code", "ended_at", "metrics", "step", "depends_on")
    for was, now in zip(jobs, read(built, "jobs", "list"), strict=True):
        assert {name: now[name] for name in names} == {name: was[name] for name in names}
    assert "nothing to do" in tara(built, "build-phase", "1", "--quantization", "Q8_0")
    assert read(built, "jobs", "list", "--active") == []
    back = read(built, "rollback", "1", "--to", "2", "--target", str(built.root / "out"))
    assert (back["from"], back["to"]) == (1, 2)
    assert "current version" in tara(built, "deploy-phase", "1", "--target", str(built.root / "out"))


def test_what_a_file_lost_is_measured_and_shown_beside_its_parent(built: Workspace) -> None:
    (quantized,) = built.artifacts.glob("gguf/starter-135M-Q4_K_M-*.gguf")
    (unquantized,) = built.artifacts.glob("gguf/starter-135M-F16-*.gguf")
    assert "not measured" in tara(built, "compare", quantized.name)
    measured = read(built, "measure", quantized.name, "--max-tokens", "20")
    assert len(measured["jobs"]) == 1
    assert "measured already" in tara(built, "measure", str(quantized), "--max-tokens", "20", "--detach")
    whole, small = (one["figures"] for one in read(built, "compare", unquantized.name, quantized.name))
    assert whole["kl_mean"] is None  # nobody measured the F16 file against itself
    assert whole["perplexity"][""]["value"] < 1.5 * small["perplexity"][""]["value"]
    assert 0 < small["kl_bound"][""]["value"] < small["kl_mean"][""]["value"] < 0.5
    assert set(small["held_out_loss"]) == set(whole["held_out_loss"]) == set(DOMAINS)
    assert small["bytes"][""]["value"] == quantized.stat().st_size
    assert small["peak_rss_bytes"][""]["value"] > quantized.stat().st_size
    assert f"adapter {DOMAINS[0]}-" in small["kl_mean"][DOMAINS[0]]["method"]
    assert small["kl_mean"][DOMAINS[0]]["method"].endswith(" on both")
    assert small["reference"][""]["value"] == "starter-135M-F16"
    shown = tara(built, "compare", str(unquantized), str(quantized))
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.splitlines()[0].split() == ["starter-135M-F16", "starter-135M-Q4_K_M"]
    in_console = StoreBackend(built).compare_phase(1, "")
    assert max(map(len, in_console)) <= 70
    assert any(line.startswith("figure") and "starter-135M-Q4_K_M" in line for line in in_console)
    divergence = f"{small['kl_mean']['']['value']:.4f}"
    assert any(line.startswith(" KL from F16") and divergence in line for line in in_console)
    assert StoreBackend(built).compare_phase(1, f"'{unquantized}' {quantized.name} phase:1") == in_console  # each once
    with pytest.raises(InvalidInput, match="no closing quotation"):
        StoreBackend(built).compare_phase(1, "'phase:1")
    assert [path.name for path in built.artifacts.glob("report/.*")] == []
    assert read(built, "show-phase", "1")["state"] == "deployed"
