// A drawing as a picture: light ink on black for grey nets, as in MNIST, else dark ink on white.
// It is sent as those data sets have it: its ink in the middle, with a margin of a seventh on each side.

import { at } from "/page/dom.js";

const canvas = at("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
let ink = "#fff", paper = "#000", last = null, isDown = false, hasInk = false;
const cursor = { x: 140, y: 140 };

export function setPaper(mode) {
  [ink, paper] = mode === "L" ? ["#fff", "#000"] : ["#111", "#fff"];
  clear();
}

export function clear() {
  pen.fillStyle = paper;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  hasInk = false;
}

function line(from, to) {
  pen.strokeStyle = ink;
  pen.lineWidth = 22;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  pen.stroke();
  hasInk = true;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) * canvas.width / box.width, y: (event.clientY - box.top) * canvas.height / box.height };
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  line(last, next);
  last = next;
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => {
    if (last) canvas.dispatchEvent(new CustomEvent("drawn"));
    last = null;
  });
}
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
  if (event.key === " ") isDown = !isDown;
  else if (!step) return;
  event.preventDefault();
  const before = { ...cursor };
  cursor.x = Math.max(12, Math.min(268, cursor.x + (step?.[0] ?? 0)));
  cursor.y = Math.max(12, Math.min(268, cursor.y + (step?.[1] ?? 0)));
  if (isDown) line(before, cursor);
  canvas.setAttribute("aria-label", `Drawing area, pen ${isDown ? "down" : "up"} at ${cursor.x}, ${cursor.y}`);
});

export async function drawing() {
  if (!hasInk) return null;
  const { data, width, height } = pen.getImageData(0, 0, canvas.width, canvas.height);
  let left = width, right = 0, top = height, bottom = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if ((data[4 * (y * width + x)] > 127) === (ink === "#fff")) {
        [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      }
    }
  }
  const sent = Object.assign(document.createElement("canvas"), { width: 280, height: 280 });
  const copy = sent.getContext("2d");
  copy.fillStyle = paper;
  copy.fillRect(0, 0, 280, 280);
  const [w, h] = [right - left + 1, bottom - top + 1], scale = 200 / Math.max(w, h);
  copy.imageSmoothingQuality = "high";
  copy.drawImage(canvas, left, top, w, h, 140 - w * scale / 2, 140 - h * scale / 2, w * scale, h * scale);
  return new Promise((resolve) => sent.toBlob(resolve, "image/png"));
}
