"""Tables of the paper with the results of our runs next to the published ones."""
