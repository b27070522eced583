import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from core.errors import EnvironmentLacks
from core.gguf import toolchain

FILES = (
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "conversion/base.py",
    "gguf-py/gguf/__init__.py",
    "gguf-py/tests/test_metadata.py",
    "LICENSE",
    "src/llama.cpp",
)


def archive(path: Path, names: tuple[str, ...], extra: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, "w:gz") as stream:
        for name in names:
            member = tarfile.TarInfo(f"llama_cpp_python-9/vendor/llama.cpp/{name}")
            member.size = len(name)
            stream.addfile(member, io.BytesIO(name.encode()))
        if extra is not None:
            stream.addfile(extra)
    return path


def test_only_the_converters_are_taken_from_the_archive(tmp_path: Path) -> None:
    toolchain.extract_converters(archive(tmp_path / "a.tar.gz", FILES), tmp_path / "out")
    taken = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert taken == sorted(set(FILES) - {"gguf-py/tests/test_metadata.py", "src/llama.cpp"})


@pytest.mark.parametrize("target", ["../../../etc/passwd", "/etc/passwd"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    link = tarfile.TarInfo("llama_cpp_python-9/vendor/llama.cpp/conversion/evil.py")
    link.type, link.linkname = tarfile.SYMTYPE, target
    with pytest.raises(tarfile.FilterError):
        toolchain.extract_converters(archive(tmp_path / "a.tar.gz", FILES, link), tmp_path / "out")
    climbing = tarfile.TarInfo("llama_cpp_python-9/vendor/llama.cpp/conversion/../../../../evil.py")
    with pytest.raises(tarfile.FilterError):
        toolchain.extract_converters(archive(tmp_path / "b.tar.gz", FILES, climbing), tmp_path / "out2")


def test_an_archive_without_the_converters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError, match="lacks the converters"):
        toolchain.extract_converters(archive(tmp_path / "a.tar.gz", FILES[:1]), tmp_path / "out")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An environment without converters: its own folder and the user's cache."""
    places = tmp_path / "prefix" / "share" / "tara" / "llama.cpp-x", tmp_path / "cache" / "tara" / "llama.cpp-x"
    monkeypatch.setattr(toolchain, "_places", lambda _engine: places)
    return places


def test_missing_converters_name_the_command(elsewhere: tuple[Path, Path]) -> None:
    assert toolchain.versions().converters is None
    with pytest.raises(EnvironmentLacks) as failure:
        toolchain.converters_folder()
    assert failure.value.hint is not None
    assert toolchain.INSTALL_COMMAND in failure.value.hint


def test_an_archive_that_is_not_the_pinned_one_is_refused(
    elsewhere: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "_download", lambda _engine, folder: archive(folder / "a.tar.gz", FILES))
    with pytest.raises(EnvironmentLacks, match="expected 832db069"):
        toolchain.install_toolchain()
    assert not elsewhere[0].exists()


def test_install_renames_a_whole_folder_and_is_then_done(
    elsewhere: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archive(tmp_path / "a.tar.gz", FILES)
    monkeypatch.setattr(toolchain, "_download", lambda _engine, _folder: source)
    monkeypatch.setitem(toolchain.ARCHIVES, toolchain.engine_version(), toolchain.sha256_of(source))
    assert toolchain.install_toolchain() == elsewhere[0] == toolchain.converters_folder()
    assert [path.name for path in elsewhere[0].parent.iterdir()] == ["llama.cpp-x"]
    monkeypatch.setattr(toolchain, "_download", lambda _engine, _folder: pytest.fail("downloaded again"))
    assert toolchain.install_toolchain() == elsewhere[0]


def test_the_users_cache_is_used_where_the_environment_cannot_be_written(
    elsewhere: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefix").write_text("a file, so nothing can be made in it, not even by root")
    source = archive(tmp_path / "a.tar.gz", FILES)
    monkeypatch.setattr(toolchain, "_download", lambda _engine, _folder: source)
    monkeypatch.setitem(toolchain.ARCHIVES, toolchain.engine_version(), toolchain.sha256_of(source))
    assert toolchain.install_toolchain() == elsewhere[1]


def test_an_engine_without_a_pin_is_refused(elsewhere: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "engine_version", lambda: "0.0.1")
    with pytest.raises(EnvironmentLacks, match=r"no converters are pinned for llama-cpp-python 0\.0\.1"):
        toolchain.install_toolchain()


def test_pip_without_an_index_is_a_plain_error(
    elsewhere: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match="pip could not fetch"):
        toolchain.install_toolchain()


def test_the_command_is_quiet_when_all_is_there_and_loads_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "core.gguf.toolchain", "install"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    code = (
        "import sys; import core.gguf.toolchain, core.gguf.inspect; "
        "print([name for name in ('torch', 'llama_cpp', 'transformers', 'gguf', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
