"""GGUF files: converters, inspection, quantization and the runtime. Modules that import llama_cpp are for worker and
engine processes only; `inspect` and `toolchain` are not among them."""
