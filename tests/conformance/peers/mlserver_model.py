"""An MLServer runtime: ONNX Runtime, with MLServer's own codecs on both sides.

mlserver start FOLDER/mlserver
"""

import asyncio

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = await get_model_uri(self._settings)
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = {told.name: NumpyCodec.decode_input(told) for told in payload.inputs}
        asked = [told.name for told in payload.outputs or []]
        names = asked or [told.name for told in self._session.get_outputs()]
        results = await asyncio.to_thread(self._session.run, names, rows)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                NumpyCodec.encode_output(name, result.astype(str) if result.dtype == object else result)
                for name, result in zip(names, results, strict=True)
            ],
        )
