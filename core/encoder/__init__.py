"""The sentence encoder: texts as unit vectors, computed by a child process; importing this loads nothing heavy."""

from core.encoder.client import Encoder, EncoderError
from core.encoder.place import OFF, VARIABLE, find_encoder

__all__ = ["OFF", "VARIABLE", "Encoder", "EncoderError", "find_encoder"]
