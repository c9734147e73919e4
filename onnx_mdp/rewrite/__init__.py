"""Plans: what is kept, in the input model's own names, and the models made from them."""
