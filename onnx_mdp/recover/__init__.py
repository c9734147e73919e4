"""Recovery: the weights that survived a cut, re-fitted in closed form."""
