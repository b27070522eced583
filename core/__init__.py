"""Everything TARA does without a screen: catalogue, store, jobs, training, GGUF, routing, chat, releases."""

__version__ = "0.1.0"
