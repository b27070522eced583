"""Training data, memory plan, loss and checkpoints. Modules that import torch are for worker processes only."""
