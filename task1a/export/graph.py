"""ONNX models: a stored network, with its weights as they are stored, and the features before it.

torch exports the network in float32. Its weights are then replaced by the tensors of the model
file, in their stored types: int8 codes behind ``DequantizeLinear`` with their scale, float16 values
behind ``Cast``. So the size of an exported model is counted over the same values as that of its
model file.
"""
import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from task1a.complexity.tensors import FEATURES
from task1a.compression.packed import SCALE, unpack
from task1a.config import FeatureConfig
from task1a.export.log_mel import LogMel
from task1a.model_file import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 20
"""Version of the operators: the one that torch exports to by default."""
WAVEFORM, LOG_MEL, PROBABILITIES = "waveform", "log_mel", "probabilities"
"""Names of inputs and outputs."""


class Probabilities(nn.Module):
    """A network whose logits are turned into probabilities.

    Shape: log-mel energies [N, 1, mel bins, frames] -> [N, classes].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute the probabilities of clips."""
        return torch.softmax(self.network(x), dim=1)


def network_graph(network: nn.Module, spec: ModelSpec) -> "ModelProto":
    """Export a network in evaluation mode, with weights in float32 under their names in the model
    file.

    Its input is ``log_mel`` [batch, 1, mel bins, frames], its output ``probabilities`` [batch,
    classes].
    """
    return _export(Probabilities(network), torch.zeros(2, *spec.input_shape), LOG_MEL, PROBABILITIES, "network.")


def features_graph(features: FeatureConfig) -> "ModelProto":
    """Export the features, from ``waveform`` [batch, samples] to ``log_mel`` [batch, 1, mel bins,
    frames].

    Raises:
        InputError: as :class:`task1a.export.log_mel.LogMel`.
    """
    return _export(LogMel(features), torch.zeros(2, features.clip_samples), WAVEFORM, LOG_MEL, "")


def with_features(features: "ModelProto", network: "ModelProto") -> "ModelProto":
    """Join both models into one from ``waveform`` to ``probabilities``."""
    from onnx import compose

    named = compose.add_prefix(features, FEATURES, rename_inputs=False)
    return compose.merge_models(named, network, io_map=[(FEATURES + LOG_MEL, LOG_MEL)])


def store_as_packed(model: "ModelProto", tensors: Mapping[str, Tensor]) -> None:
    """Replace the weights of a model by the tensors of its model file, with operators that decode
    them to float32.

    Weights that the export has changed, e.g. by folding batch norms, stay in float32.

    Args:
        model: model of :func:`network_graph`, which is changed.
        tensors: tensors of the model file by name, int8 with scales, float16 and float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, decoders = model.graph, []
    weights = {weight.name: weight for weight in graph.initializer}
    for name, value in unpack(tensors).items():
        stored = tensors[name].numpy()
        if stored.dtype == np.float32 or name not in weights:
            continue
        if not np.array_equal(numpy_helper.to_array(weights[name]), value.numpy()):
            continue

        weights[name].CopyFrom(numpy_helper.from_array(stored, name))
        decoded = f"{name}_float32"
        _rename_inputs(graph.node, name, decoded)
        if stored.dtype == np.float16:
            decoders.append(helper.make_node("Cast", [name], [decoded], decoded, to=TensorProto.FLOAT))
        else:
            scale = tensors[name + SCALE].squeeze().numpy()
            graph.initializer.append(numpy_helper.from_array(scale, name + SCALE))
            decoders.append(helper.make_node("DequantizeLinear", [name, name + SCALE], [decoded], decoded, axis=0))

    nodes = [*decoders, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def describe(model: "ModelProto", spec: ModelSpec, facts: Mapping[str, str]) -> None:
    """Write labels, features and further facts into the metadata, for programs that use the
    model."""
    from onnx import helper

    features = spec.features
    helper.set_model_props(model, {
        "labels": json.dumps(spec.labels), "features": json.dumps(asdict(features)),
        "sample_rate": str(features.sample_rate), "clip_seconds": f"{features.clip_seconds:g}", **facts})
    model.producer_name = "task1a"


def write(path: Path, model: "ModelProto") -> None:
    """Write an ONNX model, checked for consistency."""
    import onnx

    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _export(module: nn.Module, example: Tensor, input_name: str, output_name: str, prefix: str) -> "ModelProto":
    """Export a module with a free batch size; its tensors keep their names, without ``prefix``, and
    their values."""
    import onnx_ir
    import onnxscript.optimizer
    from onnx import numpy_helper
    from onnx_ir.passes import common
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common as rules

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about parts of torch that are not used here
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
            input_names=[input_name], output_names=[output_name], dynamic_shapes=({0: torch.export.Dim("batch")},))

    # While the graph is simplified, the tensors are inputs. Otherwise the optimizer would compute
    # new ones from them, e.g. transposed or folded weights, which are no longer those of the model
    # file.
    assert program is not None
    model = program.model
    for name in list(model.graph.initializers):
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)

    # Only those of torch's optimizations that keep every value: another takes 1e-8, the floor of
    # the logarithm, for 0.
    keep_values = [rules.materialize_reshape_shape_rule, rules.no_op_expand_rule,
                   rules.remove_optional_bias_from_conv_rule]
    onnxscript.optimizer.inline(model)
    for _ in range(2):
        onnxscript.optimizer.fold_constants(model)
        model = rewrite(model, keep_values)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)

    exported, state = onnx_ir.to_proto(model), module.state_dict()
    for value in exported.graph.input[1:]:
        name = value.name.removeprefix(prefix)
        exported.graph.initializer.append(numpy_helper.from_array(state[value.name].numpy(), name))
        _rename_inputs(exported.graph.node, value.name, name)
    del exported.graph.input[1:]
    return exported


def _rename_inputs(nodes: "Iterable[NodeProto]", name: str, new_name: str) -> None:
    for node in nodes:
        for index, given in enumerate(node.input):
            if given == name:
                node.input[index] = new_name
