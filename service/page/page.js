// The page: which model, which picture, its answer, and what is asked again every few seconds.

import * as camera from "/page/camera.js";
import { snippets } from "/page/code.js";
import { at, bar, make } from "/page/dom.js";
import * as draw from "/page/draw.js";
import * as live from "/page/live.js";
import { showProof, showTable } from "/page/models.js";
import { ask, timings, useKey } from "/page/service.js";

const PHASES = ["read", "decode", "queue", "compute", "encode"];
let models = [], chosen = "", file = "picture.png", language = "curl", shown = "", asked = 0;

const current = () => models.find((model) => model.name === chosen);

// --- theme -----------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
function setTheme(name) {
  localStorage.setItem("foldserve-theme", name);
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  at("theme").textContent = `Theme: ${name}`;
}
setTheme(THEMES.includes(localStorage.getItem("foldserve-theme")) ? localStorage.getItem("foldserve-theme") : "auto");
at("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(localStorage.getItem("foldserve-theme")) + 1) % 3]));

// --- models ----------------------------------------------------------------------------------------------

function setStatus(text, className) {
  if (at("status").textContent !== text) at("status").textContent = text;
  at("status").className = `pill ${className}`;
}

async function refresh() {
  try {
    models = (await (await ask("/models")).json()).models;
    const ready = models.filter((model) => model.served).length;
    setStatus(`${ready} of ${models.length} ${models.length === 1 ? "model" : "models"} ready`, ready === models.length && ready ? "good" : "wait");
    at("key-form").hidden = true;
    document.body.classList.remove("gone");
  } catch (error) {
    document.body.classList.toggle("gone", !error.status); // what is shown below was true before
    if (error.status === 401 || error.status === 403) at("key-form").hidden = false;
    setStatus(error.status ? error.message : "no connection", "bad");
    return;
  }
  const state = JSON.stringify(models);
  if (state === shown) return;
  const before = shown && JSON.parse(shown).find((model) => model.name === chosen)?.served;
  shown = state;
  if (!current()) chosen = (models.find((model) => model.served?.no_pictures === null) ?? models.find((model) => model.served) ?? models[0])?.name ?? "";
  at("model").replaceChildren(...models.map((model) => make("option", { value: model.name, selected: model.name === chosen }, model.name)));
  showTable(models);
  showModel();
  const served = current()?.served;
  if (before && served && before.version !== served.version) {
    at("message").textContent = `${chosen} is now version ${served.version}; the answer shown is of version ${before.version}.`;
  }
}

function showModel() {
  const model = current(), served = model?.served;
  const takesPictures = served?.no_pictures === null;
  at("picture-ways").hidden = !takesPictures;
  at("tensor-ways").hidden = !served || takesPictures;
  at("model-note").textContent = !model ? "The models folder holds no model."
    : !served ? `${model.reason.charAt(0).toUpperCase()}${model.reason.slice(1)}.`
    : takesPictures ? `Version ${served.version}: a picture becomes ${served.preprocessing.width}×${served.preprocessing.height} ${served.preprocessing.mode === "L" ? "grey" : "colour"} pixels; ${served.labels} labels.`
    : `Version ${served.version} takes no pictures (${served.no_pictures}). Inputs: ${served.inputs.map((input) => `${input.name} ${input.datatype} [${input.shape.join(", ")}]`).join("; ")}${served.sizes ? `, where −1 is ${served.sizes}` : ""}.`;
  const mode = served?.preprocessing?.mode;
  if (takesPictures && at("canvas").dataset.mode !== mode) { at("canvas").dataset.mode = mode; draw.setPaper(mode); }
  showProof(model);
  showCode();
}

at("model").addEventListener("change", () => {
  chosen = at("model").value;
  at("answer").hidden = true;
  say("Nothing has been asked yet.");
  showModel();
});

// --- asking ----------------------------------------------------------------------------------------------

async function predict(blob, name) {
  const number = ++asked;
  file = name;
  showCode();
  say("Asking …");
  try {
    const response = await ask(`/predict?model=${encodeURIComponent(chosen)}&top=5&row=true`, { method: "POST", body: blob });
    const document_ = await response.json();
    if (number !== asked) return; // a newer question has been asked
    showAnswer(blob, document_, timings(response));
  } catch (error) {
    if (number === asked) fail(error.message);
  }
}

function say(text) { at("message").className = "soft"; at("message").textContent = text; }

function fail(text) {
  at("answer").hidden = true;
  at("message").className = "bad";
  at("message").textContent = text;
}

function showAnswer(blob, { model_name, model_version, predictions: [found] }, ms) {
  if (found.top) {
    const told = found.labels ?? [found]; // of several labels those from the threshold on
    say(told.map((one) => `${one.label}, ${percent(one.probability)}`).join("; ") || "No label is likely enough.");
    at("message").className = "told";
  } else { // an embedding, a map
    const { row, ...answer } = found, text = JSON.stringify(answer);
    say(text.length > 600 ? `${text.slice(0, 600)} …` : text);
  }
  at("bars").replaceChildren(...(found.top ?? []).map((one) => make("li", {},
    make("span", { className: "name" }, one.label), bar(one.probability), make("span", { className: "share" }, percent(one.probability)))));
  URL.revokeObjectURL(at("sent").src);
  at("sent").src = at("save").href = URL.createObjectURL(blob);
  at("save").download = file;
  at("row").src = found.row.png;
  at("row-text").textContent = `what the net received: ${found.row.shape.join("×")}, ${found.row.minimum.toFixed(2)} to ${found.row.maximum.toFixed(2)}`;
  const total = ms.total || 1;
  at("timing").replaceChildren(
    make("p", {}, `${model_name} version ${model_version} took ${total.toFixed(1)} ms: ${ms.queue?.toFixed(2)} waiting, ${ms.compute?.toFixed(2)} computing`),
    make("div", { className: "parts", "aria-hidden": "true" }, ...PHASES.map((name, i) => {
      const part = make("span", { className: `p${i}` });
      part.style.width = `${100 * (ms[name] ?? 0) / total}%`;
      return part;
    })),
    make("ul", { className: "key" }, ...PHASES.map((name, i) => make("li", {}, make("i", { className: `p${i}` }), `${name} ${(ms[name] ?? 0).toFixed(2)} ms`))));
  at("row-figure").hidden = false;
  at("answer").hidden = false;
}

// Rounded, but never up to the 100 % that it is not.
const percent = (share) => (share > 0.9995 && share < 1 ? `${Math.floor(1e4 * share) / 100} %` : `${(100 * share).toFixed(1)} %`);

async function sendZeros() {
  const { inputs, outputs } = current().served;
  const size = (input) => input.smallest.reduce((a, b) => a * b, 1);
  const bytes = { BOOL: 1, UINT8: 1, INT8: 1, INT16: 2, FP16: 2, INT32: 4, FP32: 4 };
  const tensors = inputs.map((input) => ({ name: input.name, datatype: input.datatype, shape: [1, ...input.smallest], parameters: { binary_data_size: size(input) * (bytes[input.datatype] ?? 8) } }));
  const head = JSON.stringify({ inputs: tensors });
  const body = new Blob([head, ...tensors.map((tensor) => new Uint8Array(tensor.parameters.binary_data_size))]);
  say("Asking …");
  try {
    const response = await ask(`/v2/models/${encodeURIComponent(chosen)}/infer`, { method: "POST", body, headers: { "inference-header-content-length": String(new Blob([head]).size) } });
    const answer = JSON.parse((await response.text()).replace(/\b(NaN|-?Infinity)\b/g, '"$1"'));
    say(outputs.map((name) => {
      const { shape, data } = answer.outputs.find((one) => one.name === name);
      return `${name} [${shape.join(", ")}]: ${data.slice(0, 10).map((value) => (typeof value === "number" ? Number(value.toPrecision(6)) : value)).join(", ")}${data.length > 10 ? " …" : ""}`;
    }).join("; "));
  } catch (error) { fail(error.message); }
}
at("zeros").addEventListener("click", sendZeros);

// --- pictures --------------------------------------------------------------------------------------------

function take(files) {
  const pictures = [...files].filter((one) => one.type.startsWith("image/") || !one.type);
  if (!files.length) return;
  if (!pictures.length) return fail("That is not a picture.");
  if (at("picture-ways").hidden) return fail("The chosen model takes no pictures.");
  predict(pictures[0], pictures[0].name || "picture.png");
}
at("pick").addEventListener("click", () => at("file").click());
for (const id of ["file", "capture"]) at(id).addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
addEventListener("paste", (event) => { if (event.clipboardData?.files.length) take(event.clipboardData.files); });
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
addEventListener("drop", (event) => { event.preventDefault(); at("drop").classList.remove("over"); take(event.dataTransfer.files); });
at("photograph").addEventListener("click", camera.open);
at("camera-close").addEventListener("click", camera.close);
at("take").addEventListener("click", async () => predict(await camera.take(), "photograph.jpg"));
at("draw-open").addEventListener("click", () => {
  at("drawing").hidden = !at("drawing").hidden;
  at("draw-open").setAttribute("aria-expanded", String(!at("drawing").hidden));
});
async function sendDrawing() {
  const blob = await draw.drawing();
  if (blob) predict(blob, "drawing.png");
  else fail("Nothing is drawn yet.");
}
at("canvas").addEventListener("drawn", sendDrawing);
at("draw-send").addEventListener("click", sendDrawing);
at("draw-clear").addEventListener("click", draw.clear);

// --- code ------------------------------------------------------------------------------------------------

function showCode() {
  const model = current();
  if (!model) return;
  const texts = snippets(model, file);
  if (!(language in texts)) language = "curl";
  at("tabs").replaceChildren(...Object.keys(texts).map((name) => {
    const tab = make("button", { type: "button", id: `tab-${name}`, role: "tab", "aria-selected": String(name === language), "aria-controls": "code-panel", tabIndex: name === language ? 0 : -1 }, name);
    tab.addEventListener("click", () => { language = name; showCode(); at(`tab-${name}`).focus(); });
    return tab;
  }));
  at("code-panel").setAttribute("aria-labelledby", `tab-${language}`);
  at("code").textContent = texts[language];
  at("copied").textContent = "";
}
at("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const tabs = [...at("tabs").children];
  tabs[(tabs.findIndex((tab) => tab.tabIndex === 0) + step + tabs.length) % tabs.length].click();
});
at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("code").textContent);
    at("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(at("code")); // no clipboard on plain HTTP of another machine
    at("copied").textContent = "Selected: press Ctrl-C.";
  }
});

// --- again and again -------------------------------------------------------------------------------------

async function readMetrics() {
  try {
    live.show(await (await ask("/metrics")).text());
    at("live-note").hidden = true;
  } catch (error) {
    at("live-note").hidden = false;
    at("live-note").textContent = error.message;
  }
}
async function every(milliseconds, work) {
  for (;;) {
    if (!document.hidden) await work();
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
  }
}
at("key-form").addEventListener("submit", (event) => { event.preventDefault(); useKey(at("key").value); refresh(); });
every(3000, refresh);
every(2000, readMetrics);
