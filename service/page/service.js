// What the page asks of the service. Every failure is an error whose message is a sentence.

const KEY = "foldserve-key";
let key = sessionStorage.getItem(KEY) ?? "";

export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

export function hasKey() { return key !== ""; }

export function useKey(text) {
  key = text.trim();
  sessionStorage.setItem(KEY, key);
}

export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Refused("The service cannot be reached. It is asked again every few seconds.", 0);
  }
  if (response.ok) return response;
  throw new Refused(await sentence(response), response.status);
}

async function sentence(response) {
  let text = `The service answered ${response.status} ${response.statusText}.`;
  try { text = (await response.json()).error; } catch { /* a proxy's page */ }
  text = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const wait = response.headers.get("retry-after");
  return response.status === 503 || response.status === 429
    ? `${text} Try again in ${wait ?? 1} s.` : text;
}

export function timings(response) {
  const found = {};
  for (const part of (response.headers.get("server-timing") ?? "").split(",")) {
    const [name, ms] = part.trim().split(";dur=");
    if (ms) found[name] = Number(ms);
  }
  return found;
}
