"""The reading of what a message is about, from its plain sentence vector: torch, for the rebuild script alone.

A perceptron with one hidden layer over the classes. It reads the vector before any adapter, trained with weight decay
and dropout, on the cases as they are and misspelled: it knows less than the adapted encoder, and errs elsewhere.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from core.training.crisis_lora import CLASS_WEIGHT, SHARPNESS, SMOOTHING

HIDDEN, DROPOUT = 64, 0.3
EPOCHS, BATCH, RATE, DECAY = 40, 256, 3e-3, 1e-2


def fit_subject(
    vectors: npt.NDArray[np.float32], labels: Sequence[int], kinds: int, classes: int, seed: int
) -> tuple[list[list[float]], list[list[float]]]:
    """The rows of the hidden layer and of the last one, weights and then the bias each. `vectors` are [n, dimension] of
    length 1; `labels` are classes, of which those below `kinds` are crises."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    hidden, last = torch.nn.Linear(vectors.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, classes)
    network = torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Dropout(DROPOUT), last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    seen, label = SHARPNESS * torch.from_numpy(vectors), torch.tensor(labels)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(seen)).split(BATCH):
            scores = network(seen[batch])
            margins = torch.logsumexp(scores[:, :kinds], 1) - torch.logsumexp(scores[:, kinds:], 1)
            loss = binary_cross_entropy_with_logits(margins, (label[batch] < kinds).float())
            loss = loss + CLASS_WEIGHT * cross_entropy(scores, label[batch], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return _rows(hidden, SHARPNESS), _rows(last, 1.0)


def _rows(layer: torch.nn.Linear, factor: float) -> list[list[float]]:
    weight, bias = factor * layer.weight.detach(), layer.bias.detach()
    return [[*map(float, row), float(one)] for row, one in zip(weight, bias, strict=True)]
