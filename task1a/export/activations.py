"""Activations in 8 bits: the inputs and outputs of all convolutions, by static quantization with
onnxruntime.

Only convolutions are quantized. Residual Normalization, the sums of a block and the features stay
in float32: with them in 8 bits, the accuracy of BC-ResNet-ASC-1 on real recordings falls by half.
"""
import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from task1a.export.graph import LOG_MEL

if TYPE_CHECKING:
    from onnx import ModelProto

PERCENTILE = 99.999
"""Percentile at which the range of an activation is clipped: to cover outliers, its steps would be
too large."""


class _Clips:
    """The calibration clips one at a time, as onnxruntime asks for them."""

    def __init__(self, clips: Sequence[Path], log_mel: Callable[[Path], np.ndarray]) -> None:
        self.clips, self.log_mel = clips, log_mel
        self.set_range(0, len(clips))

    def __len__(self) -> int:
        return len(self.clips)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.remaining = iter(self.clips[start_index:end_index])

    def get_next(self) -> dict[str, np.ndarray] | None:
        clip = next(self.remaining, None)
        return None if clip is None else {LOG_MEL: self.log_mel(clip)[None, None]}


def quantize_activations(model: "ModelProto", clips: Sequence[Path], log_mel: Callable[[Path], np.ndarray],
                         reduce_range: bool) -> "ModelProto":
    """Quantize the weights and activations of all convolutions; batch norms behind them are folded
    into them.

    Args:
        model: model of :func:`task1a.export.graph.network_graph`.
        clips: calibration clips, at least one.
        log_mel: reads the log-mel energies of a clip, [mel bins, frames].
        reduce_range: quantize weights to 7 bits, because x86 processors without VNNI would
            saturate.

    Returns:
        The model with int8 weights, a scale per output channel, between ``QuantizeLinear`` and
        ``DequantizeLinear``.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        # onnxruntime quantizes from file to file, and reports on the standard output and in a log
        paths = [str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "quantized.onnx")]
        onnx.save(model, paths[0])
        logging.disable(logging.WARNING)
        try:
            quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
            quantize_static(
                paths[1], paths[2], _Clips(clips, log_mel), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, reduce_range=reduce_range,
                op_types_to_quantize=["Conv"], calibrate_method=CalibrationMethod.Percentile,
                # one clip at a time: the activations of all clips together would not fit into
                # memory
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1})
        finally:
            logging.disable(logging.NOTSET)
        quantized = onnx.load(paths[2])

    # the quantizer declares operators that the model does not use, and that another runtime may not
    # have
    used = {node.domain for node in quantized.graph.node}
    versions = [version for version in quantized.opset_import if version.domain in used]
    del quantized.opset_import[:]
    quantized.opset_import.extend(versions)
    return quantized
