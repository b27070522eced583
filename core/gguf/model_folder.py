"""Model folders made ready for llama.cpp's converter where it expects what newer transformers no longer write."""

import json
from pathlib import Path

from core.errors import InvalidInput


def ready_model(model: Path, scratch: Path) -> Path:
    """The folder to convert: `model` itself, or one of links to its files in `scratch` with a completed config.json.

    The converter reads gpt2's context length from `n_ctx`, which transformers 5 writes as `n_positions` only. Raises
    InvalidInput when there is no readable config.json.
    """
    try:
        config = json.loads((model / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{model} is no model folder: {error}", "run the job that makes it again") from error
    if config.get("model_type") != "gpt2" or "n_ctx" in config:
        return model
    folder = scratch / model.name  # the same name: the converter writes it into the file
    folder.mkdir()
    for path in model.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    (folder / "config.json").write_text(json.dumps(config | {"n_ctx": config["n_positions"]}), "utf-8")
    return folder
