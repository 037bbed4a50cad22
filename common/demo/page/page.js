"use strict";

// Images that are taken at once, and that are sent at a time.
const MOST_FILES = 20;
const AT_A_TIME = 3;
const TRIES = 30;
// What evaluation cuts off at each side: a sixteenth.
const MARGIN = 16;
// Points of matplotlib's map inferno.
const COLOURS = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];

const element = (id) => document.getElementById(id);
const queue = [];
let running = 0;
let maxBytes = Infinity;
let tooLarge = "";

fetch("/about").then((reply) => reply.json()).then((about) => {
  element("title").textContent = about.title;
  maxBytes = about.max_bytes;
  tooLarge = about.too_large;
  element("limits").textContent =
    `At most ${MOST_FILES} images at once, of up to ${maxBytes / 1e6} MB each.`;
}).catch(() => say("The server does not answer; is it still running?"));

function say(sentence) {
  element("message").textContent = sentence;
}

// Sending -----------------------------------------------------------------------------------------

function take(files) {
  say("");
  const taken = [...files].slice(0, MOST_FILES - Math.min(queue.length, MOST_FILES));
  if (taken.length < files.length) {
    say(`Too many images: ${taken.length} of ${files.length} were taken, because at most ` +
      `${MOST_FILES} may wait at once.`);
  }
  for (const file of taken) queue.push({ file, card: addCard(file.name) });
  next();
}

function addCard(name) {
  const card = element("result").content.firstElementChild.cloneNode(true);
  card.querySelector(".name").textContent = name;
  element("results").prepend(card);
  return card;
}

function next() {
  while (running < AT_A_TIME && queue.length) {
    const { file, card } = queue.shift();
    running++;
    send(file)
      .then((answer) => show(card, answer), (error) => fail(card, error.message))
      .then(() => { running--; next(); });
  }
  const left = running + queue.length;
  element("status").textContent = left ? `${left} image${left > 1 ? "s" : ""} waiting.` : "";
}

async function send(file) {
  if (file.size > maxBytes) throw new Error(tooLarge);
  // Read now: a file that has changed or gone is no failure of the network.
  const body = await file.arrayBuffer().catch(() => {
    throw new Error("The file cannot be read; is it a folder, or gone?");
  });
  let reply = null;
  for (let i = 0; i < TRIES; i++) {
    if (i) await new Promise((resolve) => setTimeout(resolve, 1000));
    reply = await fetch("/explain", { method: "POST", body }).catch(() => {
      throw new Error("The server does not answer; is it still running?");
    });
    if (reply.status !== 503) break;
  }
  const answer = await reply.json().catch(() => ({ error: `The server failed (${reply.status}).` }));
  if (answer.error) throw new Error(answer.error);
  return answer;
}

function fail(card, sentence) {
  const state = card.querySelector(".state");
  state.textContent = sentence;
  state.classList.add("error");
  state.setAttribute("role", "alert");
}

// Answers -----------------------------------------------------------------------------------------

function show(card, answer) {
  card.querySelector(".state").remove();
  const img = card.querySelector("img");
  img.src = `data:image/jpeg;base64,${answer.picture}`;
  img.alt = `${card.querySelector(".name").textContent}: ${answer.classes[0].name}`;
  card.querySelector(".picture").classList.add("ready");
  const canvas = card.querySelector("canvas");
  place(canvas, answer);
  const bars = card.querySelector(".bars");
  bars.setAttribute("aria-label", "Most probable classes");
  const buttons = answer.classes.map((found) => addBar(bars, found));
  const choose = (chosen) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
    draw(canvas, answer.maps[chosen]);
  };
  buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  choose(0);
  element("switch").hidden = false;
}

function addBar(bars, { name, probability }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "bar";
  const part = (kind, text) => {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    return span;
  };
  const percent = `${(100 * probability).toFixed(1)} %`;
  const track = part("track", "");
  const fill = part("fill", "");
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  button.append(part("label", name), part("value", percent), track);
  bars.append(button);
  return button;
}

// Puts the map over the part of the image that the network sees.
function place(canvas, { width, height }) {
  const [left, top] = [width, height].map((length) => Math.floor(length / MARGIN) / length);
  canvas.style.left = `${100 * left}%`;
  canvas.style.top = `${100 * top}%`;
  canvas.style.width = `${100 * (1 - 2 * left)}%`;
  canvas.style.height = `${100 * (1 - 2 * top)}%`;
}

function draw(canvas, map) {
  // Small images that the browser would enlarge with edges are enlarged here, smoothly.
  const size = 112;
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(size, size);
  const scale = Math.max(1e-6, ...map.flat());
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const level = Math.min(Math.max(at(map, x / size, y / size) / scale, 0), 1);
      pixels.data.set([...colour(level), 255], 4 * (y * size + x));
    }
  }
  context.putImageData(pixels, 0, 0);
}

// A map's value at a place (0 to 1), between the middles of its positions.
function at(map, x, y) {
  const [y0, y1, dy] = neighbours(y, map.length);
  const [x0, x1, dx] = neighbours(x, map[0].length);
  const row = (i) => map[i][x0] * (1 - dx) + map[i][x1] * dx;
  return row(y0) * (1 - dy) + row(y1) * dy;
}

function neighbours(place, count) {
  const position = Math.min(Math.max(place * count - 0.5, 0), count - 1);
  const before = Math.floor(position);
  return [before, Math.min(before + 1, count - 1), position - before];
}

function colour(level) {
  const [before, after, part] = neighbours((level * (COLOURS.length - 1) + 0.5) / COLOURS.length, COLOURS.length);
  return COLOURS[before].map((value, i) => value * (1 - part) + COLOURS[after][i] * part);
}

// Files, dropped or chosen, and the camera --------------------------------------------------------

const drop = element("drop");
const isFiles = (event) => [...event.dataTransfer.types].includes("Files");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.toggle("over", isFiles(event));
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else say("Only files can be dropped here.");
});

const input = element("files");
input.addEventListener("change", () => {
  take(input.files);
  input.value = ""; // So that the same file can be chosen again.
});
for (const kind of ["focus", "blur"]) {
  input.addEventListener(kind, () => input.labels[0].classList.toggle("focused", kind === "focus"));
}

element("show_maps").addEventListener("change", (event) => {
  document.body.classList.toggle("maps", event.target.checked);
});

const video = element("video");
const camera = element("camera");
if (!navigator.mediaDevices) {
  camera.disabled = true;
  camera.title = "Browsers give the camera to pages of this machine (localhost) or with HTTPS only.";
}
camera.addEventListener("click", async () => {
  say("");
  camera.disabled = true; // A second stream would stay when this one is closed.
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    say(`There is no camera to use: ${error.message}.`);
    camera.disabled = false;
    return;
  }
  element("live").hidden = false;
  await video.play();
});
element("close").addEventListener("click", () => {
  video.srcObject.getTracks().forEach((track) => track.stop());
  camera.disabled = false;
  element("live").hidden = true;
});
element("shoot").addEventListener("click", () => {
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [video.videoWidth, video.videoHeight];
  picture.getContext("2d").drawImage(video, 0, 0);
  const name = `Camera, ${new Date().toLocaleTimeString()}`;
  picture.toBlob((blob) => take([new File([blob], name)]), "image/jpeg", 0.95);
});
