// The models: what is served, what is not and why, and the proof of what answers.

import { at, bar, make, short } from "/page/dom.js";
import { ask, hasKey } from "/page/service.js";

export function showTable(models) {
  // The roles are said, because on a narrow page rows are laid out as no table is.
  const head = make("tr", { role: "row" }, ...["Model", "Version", "State"].map((name) => make("th", { scope: "col", role: "columnheader" }, name)));
  const rows = models.flatMap((model) => (model.versions.length ? model.versions : [{ version: null, state: "UNAVAILABLE", reason: model.reason }])
    .map((version) => row(model, version)));
  const table = make("table", { role: "table" }, make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, ...rows));
  at("models").replaceChildren(models.length ? table : make("p", {}, "The models folder holds no model."));
}

const STATES = { READY: ["ready", "good"], LOADING: ["loading", "wait"], UNAVAILABLE: ["not served", "soft"] };

function row(model, version) {
  const isUnproved = version.state === "READY" && model.served.proof.unproved;
  const [words, className] = isUnproved ? ["ready", "wait"] : STATES[version.state];
  const isFailure = version.state === "UNAVAILABLE" && !["an older version", "unloaded", "not loaded"].includes(version.reason);
  const proof = version.state === "READY" ? verdict(model.served.proof) : version.reason;
  return make("tr", { role: "row" },
    make("td", { role: "cell" }, model.name),
    make("td", { role: "cell" }, version.version ?? "–", ...(version.has_report ? [" · ", report(model.name, version.version)] : [])),
    make("td", { role: "cell" }, make("strong", { className: isFailure ? "bad" : className }, isFailure ? "refused" : words), proof && proof !== words ? `: ${proof}` : ""));
}

function report(name, version) {
  const path = `/models/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}/report`;
  const link = make("a", { href: path, target: "_blank", rel: "noopener", "aria-label": `Report of ${name} version ${version}` }, "report");
  link.addEventListener("click", async (event) => {
    if (!hasKey()) return; // a link carries no key: the report is fetched, and saved
    event.preventDefault();
    const blob = await (await ask(path)).blob();
    make("a", { href: URL.createObjectURL(blob), download: `${name}-${version}-report.html` }).click();
  });
  return link;
}

function verdict(proof) {
  if (proof.unproved) return `unproved: ${proof.unproved}`;
  const worst = Math.max(...proof.outputs.map((one) => (one.difference === 0 ? 0 : one.difference / one.tolerance)));
  const { found, folded } = proof.batch_norms;
  return `proved here on ${proof.golden_rows} golden rows${proof.golden_pictures ? ` and ${proof.golden_pictures} pictures` : ""}: at most ${portion(worst)} of the tolerance; ${folded} of ${found} BatchNorms folded`;
}

const portion = (share) => (share >= 0.1 ? `${Math.round(share * 100)} %` : `${short(share * 100)} %`);

// What is said of int8 where the bundle holds an int8 graph.
function precision({ precision: serves, int8 }) {
  if (!int8) return "";
  if (serves.name !== "int8") return `It answers in float32, and not in int8: ${serves.reason}.`;
  const near = Object.entries(int8.sqnr_db).map(([name, db]) => `${name} at ${short(db)} dB`).join(", ");
  const same = int8.agreement ? `; ${int8.agreement.same} of ${int8.agreement.rows} rows get the same label` : "";
  return `It answers in int8, whose golden answers replayed on this machine. That is another function, near to float32: ${near}${same}.`;
}

export function showProof(model) {
  const proof = model?.served?.proof;
  at("proof").replaceChildren();
  if (!proof) return;
  const { found, folded } = proof.batch_norms;
  const origin = `${folded} of ${found} BatchNorms are folded away. Exported ${new Date(model.served.created).toLocaleDateString()} from ${model.served.source}.`;
  if (proof.unproved) {
    at("proof").append(make("div", { className: "proof" }, make("h3", {}, "Is it the trained net?"),
      make("p", {}, `Unproved: nothing shows it. It was bundled with --no-proof because ${proof.unproved}.`), make("p", { className: "soft" }, origin)));
    return;
  }
  const when = new Date(proof.proved_at * 1000).toLocaleString();
  const box = make("div", { className: "proof" }, make("h3", {}, "Is it the trained net?"),
    make("p", {}, `Yes. Before its first request, version ${model.served.version} answered ${proof.golden_rows} golden rows on this machine (${proof.provider}, ${when}) as the unfolded net does in float64.${proof.golden_pictures ? ` ${proof.golden_pictures} golden pictures became the rows that they must become.` : ""}`));
  for (const one of proof.outputs) {
    const share = one.difference === 0 ? 0 : one.difference / one.tolerance;
    box.append(make("p", {}, `${one.name}: differs by at most ${short(one.difference)}; ${short(one.tolerance)} is allowed (${portion(share)} of it).`), bar(share));
  }
  const inInt8 = precision(proof);
  if (inInt8) box.append(make("p", {}, inInt8));
  box.append(make("p", { className: "soft" }, origin));
  at("proof").append(box);
}
