// The request that was last sent, as commands that can be copied and run.

import { hasKey } from "/page/service.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (text) => JSON.stringify(text);

export function snippets(model, file) {
  const url = location.origin, served = model.served, name = model.name;
  if (!served) return { curl: `curl ${url}/v2/health/ready` };
  return served.no_pictures === null ? ofPicture(url, name, file, served) : ofRows(url, name, served);
}

function ofPicture(url, name, file, served) {
  const query = `?model=${encodeURIComponent(name)}&top=5`;
  const key = hasKey();
  const { mode, height, width, mean, std } = served.preprocessing, input = served.inputs[0];
  const isBytes = input.datatype === "UINT8";
  const texts = {
    curl: `curl ${key ? '-H "Authorization: Bearer $FOLDSERVE_API_KEY" ' : ""}--data-binary @${quoted(file)} ${quoted(url + "/predict" + query)}`,
    Python: `# pip install 'foldserve[client]'
${key ? "import os\n" : ""}from foldserve.client import Client

with Client(${python(url)}${key ? ', api_key=os.environ["FOLDSERVE_API_KEY"]' : ""}) as client:
    for label, probability in client.predict(${python(file)}, model=${python(name)}, top=5).top:
        print(f"{probability:.4f}  {label}")`,
    tritonclient: `# pip install 'tritonclient[http]' pillow
${key ? "import os\n" : ""}import numpy as np
import tritonclient.http as triton
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open(${python(file)})).convert(${python(mode)}).resize((${width}, ${height}), Image.BILINEAR)
pixels_chw = np.asarray(image, np.float32).reshape(${height}, ${width}, -1).transpose(2, 0, 1)
mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (${JSON.stringify(mean)}, ${JSON.stringify(std)}))
rows = ${isBytes ? "np.rint((pixels_chw / 255 - mean) / std)[None].astype(np.uint8)" : `((pixels_chw / 255 - mean) / std)[None].astype(np.${numpyOf(input.datatype)})`}

tensor = triton.InferInput(${python(input.name)}, rows.shape, ${python(input.datatype)})
tensor.set_data_from_numpy(rows)
client = triton.InferenceServerClient(${python(location.host)}${location.protocol === "https:" ? ", ssl=True" : ""})
answer = client.infer(${python(name)}, [tensor]${key ? ', headers={"Authorization": "Bearer " + os.environ["FOLDSERVE_API_KEY"]}' : ""})
print(answer.as_numpy(${python(served.outputs[0])}))`,
    JavaScript: `const picture = document.querySelector("input[type=file]").files[0];
const response = await fetch(${python(url + "/predict" + query)}, {
  method: "POST",
  body: picture,${key ? '\n  headers: { authorization: "Bearer " + apiKey },' : ""}
});
if (!response.ok) throw new Error((await response.json()).error);
console.log((await response.json()).predictions[0].top);`,
  };
  if (!isPlain(served.preprocessing)) delete texts.tritonclient; // it would take a page of code
  return texts;
}

// Resized to exactly its row, with levels / 255 in NCHW: what a few lines of Pillow and NumPy do.
function isPlain({ mode, resize, scale, layout, orientation }) {
  const resized = !resize || (resize.mode === "exact" && resize.interpolation === "bilinear" && resize.antialias);
  return resized && mode !== "BGR" && Math.abs(scale * 255 - 1) < 1e-9 && layout === "NCHW" && orientation === "exif";
}

const numpyOf = (datatype) => ({ FP16: "float16", FP32: "float32", FP64: "float64", BOOL: "bool" })[datatype] ?? datatype.toLowerCase();

function ofRows(url, name, served) {
  const path = `${url}/v2/models/${encodeURIComponent(name)}/infer`;
  const arrays = served.inputs.map((input) => `        ${python(input.name)}: np.zeros((1, ${input.smallest.map((size) => `${size}, `).join("").trim()}), ${python(numpyOf(input.datatype))}),`);
  const inputs = served.inputs.map((input) => ({ name: input.name, datatype: input.datatype, shape: [1, ...input.smallest] }));
  const zero = (input) => (input.datatype === "BOOL" ? "false" : "0");
  const size = (input) => input.smallest.reduce((a, b) => a * b, 1);
  const json = `{"inputs": [${served.inputs.map((input, i) => `${JSON.stringify(inputs[i]).slice(0, -1)},"data":[${size(input) > 40 ? `${zero(input)}, … ${size(input)} values` : Array(size(input)).fill(zero(input)).join(",")}]}`).join(", ")}]}`;
  const key = hasKey();
  return {
    curl: `curl ${key ? '-H "Authorization: Bearer $FOLDSERVE_API_KEY" ' : ""}-d ${quoted(json)} ${quoted(path)}`,
    Python: `# pip install 'foldserve[client]'
${key ? "import os\n" : ""}import numpy as np
from foldserve.client import Client

with Client(${python(url)}${key ? ', api_key=os.environ["FOLDSERVE_API_KEY"]' : ""}) as client:
    print(client.infer(${python(name)}, {
${arrays.join("\n")}
    }).outputs)`,
    JavaScript: `const response = await fetch(${python(path)}, {
  method: "POST",
  body: JSON.stringify({ inputs: ${JSON.stringify(inputs)}.map((input) => ({
    ...input,
    data: Array(input.shape.reduce((a, b) => a * b, 1)).fill(${served.inputs.some((input) => input.datatype === "BOOL") ? 'input.datatype === "BOOL" ? false : 0' : "0"}),
  })) }),${key ? '\n  headers: { authorization: "Bearer " + apiKey },' : ""}
});
console.log(await response.json());`,
  };
}
