"""Statistics of activations at the operators that are linear in a weight, collected in parts of the network."""
