"""Networks, front ends and normalizations, which know tensors but no data, configuration or
files."""
