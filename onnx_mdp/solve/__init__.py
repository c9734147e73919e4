"""The program: one choice of width per group and one bit per block, proven optimal. Numbers only, no ONNX."""
