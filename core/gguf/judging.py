"""How probable a model finds a given answer. Imports llama_cpp through the runtime: for engine processes only."""

from collections.abc import Sequence

import numpy as np

from core.errors import InvalidInput
from core.gguf.divergence import log_softmax
from core.gguf.runtime import Runtime
from core.gguf.scoring import Text, predictions


def mean_log_probability(runtime: Runtime, messages: Sequence[dict[str, str]], answer: str) -> tuple[float, int]:
    """Mean log-probability (nats) of the tokens of `answer` after a conversation, under what is loaded, and how many
    tokens that are. The answer is cut where the context ends. Raises InvalidInput for an empty answer, EngineError
    where the conversation alone fills the context."""
    prompt = runtime.render(messages)
    said = runtime.tokenize(answer, special=False)[: max(0, runtime.context_length - len(prompt))]
    if not said:
        raise InvalidInput("there is no answer to judge", "ask again")
    text = Text((*prompt, *said), (*(False for _ in prompt), *(True for _ in said)))
    total = 0.0
    for logits, following in predictions(runtime, text):
        total += float(log_softmax(logits)[np.arange(len(following)), following].sum())
    return total / len(said), len(said)
