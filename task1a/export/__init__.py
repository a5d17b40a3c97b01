"""Export of a stored model to ONNX, for devices and programs without torch.

``graph`` builds the ONNX model, ``activations`` quantizes what it computes, ``check`` compares it
with the model that it was made from, and ``measure`` measures its speed and memory. The packages of
the extra ``export`` are needed.
"""
