"""A Triton model of the python backend: ONNX Runtime on the model.onnx beside this file, requests batched."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = Path(__file__).parent / "model.onnx"
        self._session = ort.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """One run for all requests, its rows dealt out again."""
        names = [told.name for told in self._session.get_inputs()]
        given = [
            {name: decoded(pb_utils.get_input_tensor_by_name(request, name).as_numpy()) for name in names}
            for request in requests
        ]
        rows = {name: np.concatenate([one[name] for one in given]) for name in names}
        outputs = [told.name for told in self._session.get_outputs()]
        results = self._session.run(outputs, rows)
        responses, begin = [], 0
        for request, one in zip(requests, given, strict=True):
            end = begin + len(one[names[0]])
            asked = request.requested_output_names()  # a set: the order asked for is lost on the way
            tensors = [
                pb_utils.Tensor(name, encoded(result[begin:end]))
                for name, result in zip(outputs, results, strict=True)
                if name in asked
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
            begin = end
        return responses


def decoded(array):
    """The backend's strings are bytes, ONNX Runtime's are text."""
    return np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype == object else array


def encoded(array):
    return np.vectorize(str.encode, otypes=[object])(array) if array.dtype == object else array
