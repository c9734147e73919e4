"""MILP solvers behind one function each; a new one is a file here and a row in `onnx_mdp.solve.solve`."""
