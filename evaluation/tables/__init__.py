"""Tables of the paper with the results of our runs beside the published ones."""
