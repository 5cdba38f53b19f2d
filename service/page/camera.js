// A photograph: by the browser's camera where a page may use it, else by the device's own camera application.

import { at } from "/page/dom.js";

let stream = null;

export function close() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  at("camera").hidden = true;
}

export async function open() {
  if (!navigator.mediaDevices?.getUserMedia) return at("capture").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return at("capture").click(); // no camera, or no permission
  }
  const video = at("video");
  video.srcObject = stream;
  at("camera").hidden = false;
  await video.play();
  at("take").focus();
}

export async function take() {
  const video = at("video");
  const still = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
  still.getContext("2d").drawImage(video, 0, 0);
  close();
  return new Promise((resolve) => still.toBlob(resolve, "image/jpeg", 0.95));
}
