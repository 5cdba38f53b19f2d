// What happens now, from /metrics: rates and quantiles of what came between two readings.

import { at, make } from "/page/dom.js";

const KEPT = 60, SVG = "http://www.w3.org/2000/svg";
const TILES = [
  ["requests a second", ["rate"], (v) => v.toFixed(v < 10 ? 1 : 0)],
  ["milliseconds, p50 and p99", ["p50", "p99"], (a, b) => (a === null ? "–" : `${a.toFixed(1)} / ${b.toFixed(1)}`)],
  ["rows in a batch", ["batch"], (v) => (v === null ? "–" : v.toFixed(1))],
  ["rows waiting", ["queue"], (v) => v.toFixed(0)],
];
const history = [];
let before = null;

export function parse(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const match = /^(foldserve_\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const le = /le="([^"]+)"/.exec(match[2] ?? "");
    const name = le ? `${match[1]} ${le[1]}` : match[1];
    sums.set(name, (sums.get(name) ?? 0) + Number(match[3]));
  }
  return sums;
}

function quantile(share, now, old) {
  const buckets = [...now.keys()].filter((name) => name.startsWith("foldserve_request_seconds_bucket "))
    .map((name) => [name.split(" ")[1], now.get(name) - (old.get(name) ?? 0)])
    .map(([le, count]) => [le === "+Inf" ? Infinity : Number(le), count]).sort((a, b) => a[0] - b[0]);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [low, below] = [0, 0];
  for (const [high, count] of buckets) {
    if (count >= share * total) {
      return 1000 * (high === Infinity ? low : low + (high - low) * (share * total - below) / Math.max(count - below, 1e-9));
    }
    [low, below] = [high, count];
  }
  return null;
}

export function show(text) {
  const now = { at: performance.now(), sums: parse(text) };
  if (before) {
    const seconds = (now.at - before.at) / 1000;
    const since = (name) => Math.max(0, (now.sums.get(name) ?? 0) - (before.sums.get(name) ?? 0));
    const batches = since("foldserve_batch_rows_count");
    history.push({
      rate: since("foldserve_requests_total") / seconds,
      p50: quantile(0.5, now.sums, before.sums),
      p99: quantile(0.99, now.sums, before.sums),
      batch: batches ? since("foldserve_batch_rows_sum") / batches : null,
      queue: now.sums.get("foldserve_queue_rows") ?? 0,
    });
    if (history.length > KEPT) history.shift();
    render();
  }
  before = now;
}

function render() {
  const latest = history.at(-1);
  at("live").replaceChildren(...TILES.map(([name, series, words]) => {
    const text = words(...series.map((one) => latest[one]));
    const tile = make("div", { className: "tile" }, make("p", { className: "soft" }, name), make("b", {}, text));
    tile.append(chart(series, `${name} in the last two minutes, now ${text}`));
    return tile;
  }));
}

function chart(series, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const highest = Math.max(...history.flatMap((one) => series.map((name) => one[name] ?? 0)), 1e-9);
  series.forEach((name, index) => {
    const points = history.map((one, i) => `${100 - (history.length - 1 - i) * 100 / (KEPT - 1)},${38 - 36 * (one[name] ?? 0) / highest}`);
    const lineOf = document.createElementNS(SVG, "polyline");
    lineOf.setAttribute("points", points.join(" "));
    if (index) lineOf.setAttribute("class", "second");
    svg.append(lineOf);
  });
  return svg;
}
