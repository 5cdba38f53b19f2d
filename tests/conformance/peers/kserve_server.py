"""A KServe model server: ONNX Runtime on every net of a folder, as KServe's own sklearn server does it.

python kserve_server.py FOLDER/nets --http_port 8080
"""

import asyncio
import json
import logging
import sys
from pathlib import Path

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.errors import InferenceError
from kserve.utils.utils import generate_uuid


class OnnxModel(Model):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder.name)
        self._folder = folder
        self._told = json.loads((folder / "net.json").read_text())

    def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        graph = str(self._folder / "model.onnx")
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.ready = True
        return True

    def get_input_types(self):
        return self._told["inputs"]

    def get_output_types(self):
        return self._told["outputs"]

    async def predict(self, payload, headers=None, response_headers=None):
        try:
            rows = {told.name: told.as_numpy() for told in payload.inputs}
            names = [told.name for told in payload.request_outputs or []] or None
            results = await asyncio.to_thread(self._session.run, names, rows)
        except Exception as error:
            raise InferenceError(str(error)) from error
        datatypes = {told["name"]: told["datatype"] for told in self._told["outputs"]}
        outputs = []
        for name, result in zip(names or datatypes, results, strict=True):
            output = InferOutput(name=name, shape=list(result.shape), datatype=datatypes[name])
            output.set_data_from_numpy(result, binary_data=bool(payload.use_binary_outputs))
            outputs.append(output)
        return InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    models = [OnnxModel(net) for net in sorted(folder.iterdir())]
    for model in models:
        try:
            model.load()
        except Exception:
            logging.exception("the model is not ready: %s", model.name)
    ModelServer(enable_grpc=False).start(models)
