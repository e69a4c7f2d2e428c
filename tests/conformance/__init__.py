"""attn_ref held to suites that nobody here wrote: ONNX, transformers and torch."""
