"""What in a model's folder is garbage, with the reason. Rules look at each part of the path, so folders count too."""

import re
from pathlib import PurePath

_FLAGS = re.IGNORECASE

# What a model, tokenizer or adapter needs is never garbage, whatever a rule below says.
NEEDED = re.compile(
    r"(config|generation_config|preprocessor_config|adapter_config|tokenizer_config|tokenizer|special_tokens_map"
    r"|added_tokens|vocab|chat_template|quantize_config|tara)\.json"
    r"|merges\.txt|vocab\.txt|tokenizer\.model(\.v\d+)?|spiece\.model|sentencepiece\.bpe\.model|.*\.jinja|.*\.tiktoken"
    r"|(adapter_)?model[^/]*\.safetensors(\.index\.json)?|.*\.gguf|licen[sc]e(\.(txt|md))?|readme\.md",
    _FLAGS,
)

_ANY_PART = (
    (re.compile(r"\.tmp-.*", _FLAGS), "left over from an unfinished write"),
    (re.compile(r"\._.*|\.DS_Store|__MACOSX|Thumbs\.db|desktop\.ini", _FLAGS), "made by a file browser"),
)
_FOLDERS = (
    (re.compile(r"(tmp-)?checkpoint-.*|global_step\d+", _FLAGS), "a training checkpoint"),
    (re.compile(r"runs|logs?|wandb|mlruns|tensorboard|lightning_logs", _FLAGS), "logs of training runs"),
    (re.compile(r"\.git|\.svn|\.hg", _FLAGS), "version control data"),
    (
        re.compile(r"__pycache__|\.?cache|\.huggingface|\.ipynb_checkpoints|\.(pytest|mypy|ruff)_cache", _FLAGS),
        "a cache that is made again when needed",
    ),
    (re.compile(r"te?mp", _FLAGS), "temporary files"),
)
_FILES = (
    (re.compile(r".*\.(tmp|temp|part|partial|incomplete|crdownload|sw[op])", _FLAGS), "a temporary file"),
    (re.compile(r".*\.(bak|backup|orig|old)|.*~", _FLAGS), "a backup copy"),
    (re.compile(r".*\.log(\.\d+)?|nohup\.out|events\.out\.tfevents\..*", _FLAGS), "a log"),
    (re.compile(r".*\.lock", _FLAGS), "a lock file"),
    (re.compile(r".*\.(cache|py[cod])", _FLAGS), "a cache that is made again when needed"),
    (re.compile(r"\.git(attributes|ignore|modules|keep)", _FLAGS), "version control data"),
    (
        re.compile(
            r"(optimizer|scheduler|scaler|rng_state|random_states|sampler|dl_state)(_\d+)*\.(pt|pth|bin|pkl|npz|json|safetensors)"
            r"|trainer_state\.json|training_args\.(bin|json)|zero_pp_rank_.*\.pt|.*_optim_states\.pt",
            _FLAGS,
        ),
        "state of a training run, not needed to use the model",
    ),
)


def garbage_reason(relative: PurePath) -> str | None:
    """Why the file at `relative` (relative to the model's folder) is garbage, or None when it is not.

    A file is garbage when its own name says so or any folder on its way is garbage.
    """
    *folders, name = relative.parts
    for part in folders:
        for pattern, reason in (*_ANY_PART, *_FOLDERS):
            if pattern.fullmatch(part):
                return f"{reason} ({part}/)"
    for pattern, reason in _ANY_PART:  # a half-written `.tmp-1-model.gguf` is no model
        if pattern.fullmatch(name):
            return reason
    if NEEDED.fullmatch(name):
        return None
    return next((reason for pattern, reason in _FILES if pattern.fullmatch(name)), None)
