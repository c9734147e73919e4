"""ONNX models: reading, normal form, views, rewriting, writing. The only home of onnx and onnx_graphsurgeon."""
