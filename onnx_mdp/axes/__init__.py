"""The algebra of axes: terms, unification and evaluation. Sees no ONNX."""
