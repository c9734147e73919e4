"""What a model is for: its accuracy, by labels or by a function of the user."""
