// Elements, made without markup: a model's or a label's name is only ever text.

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function bar(share, className = "fill") {
  const fill = make("span", { className });
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("span", { className: "track", "aria-hidden": "true" }, fill);
}

export function short(number) {
  const rounded = Number(number.toPrecision(2));
  return rounded !== 0 && Math.abs(rounded) < 0.001 ? rounded.toExponential() : rounded.toString();
}
