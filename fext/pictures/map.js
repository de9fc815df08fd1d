"use strict";

const PER_BLOCK = 200; // images of a block of data
const WORLD = 10000; // length of the longer side of the plane
const COLOURS = [
  "#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#d9a81e", "#9d755d", "#3aa6a0", "#e377a2", "#7a5fd0", "#8aa02b",
  "#c03a5b", "#5b8ff0",
];
const OTHERS = "#8a939c";
const SIDES = { least: 36, most: 128 }; // of a thumbnail on the map, in pixels
const MOST_DECODED = 1000; // thumbnails that are kept as pictures
const MOST_ZOOM = 200;
const REACH = 14; // pixels from a point at which it is still meant

const names = readData("names");
const searched = names.map((name) => name.toLowerCase());
const layouts = readData("layouts");
const groups = readData("groups");
const canvas = document.getElementById("map");
const context = canvas.getContext("2d");
const label = document.getElementById("name");
const search = document.getElementById("search");
const count = document.getElementById("count");
const legend = document.getElementById("legend");
const choice = Object.fromEntries(["layout", "colours", "pictures"].map((id) => [id, document.getElementById(id)]));
const blocks = new Map();
const decoded = new Map();
const view = { x: 0, y: 0, scale: 1 }; // the middle of what is seen, and pixels for a unit of the plane
let width = 0;
let height = 0;
let placed = []; // thumbnails as they are drawn: [place, left, top, side]
let chosenGroup = -1; // of the legend
let matches = null; // places that are searched for; null: all
let match = -1;

function readData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function imageAt(place) {
  const number = Math.floor(place / PER_BLOCK);
  if (!blocks.has(number)) blocks.set(number, readData(`images-${number}`));
  const [thumbnail, reason] = blocks.get(number)[place % PER_BLOCK];
  return { source: thumbnail && `data:image/webp;base64,${thumbnail}`, reason };
}

// The picture of an image; it is drawn once it is decoded.
function pictureOf(place) {
  let picture = decoded.get(place);
  if (picture === undefined) {
    const { source } = imageAt(place);
    picture = source ? make("img", { src: source, onload: drawSoon }) : null;
    decoded.set(place, picture);
    if (decoded.size > MOST_DECODED) decoded.delete(decoded.keys().next().value);
  }
  return picture;
}

// -------- Drawing

function places() {
  return layouts[choice.layout.value];
}

function onScreen([x, y]) {
  return [(x - view.x) * view.scale + width / 2, (y - view.y) * view.scale + height / 2];
}

function colourOf(place) {
  const found = groups[choice.colours.value];
  if (!found) return COLOURS[0];
  const group = found[1][place];
  return group >= 0 && group < COLOURS.length ? COLOURS[group] : OTHERS;
}

function isLit(place) {
  const found = groups[choice.colours.value];
  return (chosenGroup < 0 || found[1][place] === chosenGroup) && (matches === null || matches.has(place));
}

let isDue = false;
function drawSoon() {
  if (!isDue) requestAnimationFrame(draw);
  isDue = true;
}

function draw() {
  isDue = false;
  const ratio = devicePixelRatio || 1;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const zoom = view.scale / fitting();
  const side = Math.min(SIDES.most, SIDES.least * Math.max(1, Math.sqrt(zoom)));
  const seen = [];
  places().forEach((point, place) => {
    const [x, y] = onScreen(point);
    if (x > -side && y > -side && x < width + side && y < height + side) seen.push([place, x, y, isLit(place)]);
  });
  placed = choice.pictures.checked ? pick(seen.filter(([, , , lit]) => lit), side) : [];
  const drawn = new Set(placed.map(([place]) => place));
  const radius = Math.min(6, 2.5 * Math.max(1, Math.sqrt(zoom)));
  for (const [place, x, y, lit] of seen) if (!drawn.has(place)) drawPoint(place, x, y, radius, lit);
  for (const thumbnail of placed) drawThumbnail(...thumbnail);
  if (document.activeElement === canvas) drawCross();
}

// As many thumbnails as have room, none over another; all other images, and those that are not lit, are points.
function pick(seen, side) {
  const cells = new Map();
  const chosen = [];
  for (const [place, x, y] of seen) {
    const [column, row] = [Math.floor(x / side), Math.floor(y / side)];
    let isFree = true;
    for (let i = -1; i <= 1 && isFree; i++) {
      for (let j = -1; j <= 1 && isFree; j++) {
        const other = cells.get(`${column + i} ${row + j}`);
        isFree = !other || Math.abs(other[0] - x) >= side || Math.abs(other[1] - y) >= side;
      }
    }
    if (!isFree || imageAt(place).source === "") continue;
    cells.set(`${column} ${row}`, [x, y]);
    chosen.push([place, x - side / 2, y - side / 2, side - 2]);
  }
  return chosen;
}

function drawPoint(place, x, y, radius, lit) {
  context.globalAlpha = lit ? 0.9 : 0.12;
  context.fillStyle = colourOf(place);
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.globalAlpha = 1;
}

function drawThumbnail(place, left, top, side) {
  const picture = pictureOf(place);
  context.fillStyle = colourOf(place);
  context.fillRect(left, top, side, side);
  if (picture && picture.complete && picture.naturalWidth > 0) {
    const cut = Math.min(picture.naturalWidth, picture.naturalHeight); // its middle, a square
    const [x, y] = [(picture.naturalWidth - cut) / 2, (picture.naturalHeight - cut) / 2];
    context.drawImage(picture, x, y, cut, cut, left + 2, top + 2, side - 4, side - 4);
  }
}

function drawCross() {
  context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 1;
  context.beginPath();
  for (const [x, y] of [[8, 0], [0, 8]]) {
    context.moveTo(width / 2 - x, height / 2 - y);
    context.lineTo(width / 2 + x, height / 2 + y);
  }
  context.stroke();
}

// -------- Moving about

function extent() {
  return [0, 1].map((axis) => places().reduce((most, point) => Math.max(most, point[axis]), 0));
}

// The scale at which all of the plane is seen.
function fitting() {
  const [right, bottom] = extent();
  const margin = 2 * SIDES.least;
  return Math.max(1e-6, Math.min((width - margin) / (right || WORLD), (height - margin) / (bottom || WORLD)));
}

function showAll() {
  const [right, bottom] = extent();
  Object.assign(view, { x: right / 2, y: bottom / 2, scale: fitting() });
  drawSoon();
}

function moveBy(x, y) {
  const [right, bottom] = extent();
  view.x = Math.min(right, Math.max(0, view.x - x / view.scale));
  view.y = Math.min(bottom, Math.max(0, view.y - y / view.scale));
  drawSoon();
}

function zoomBy(factor, x = width / 2, y = height / 2) {
  const least = fitting();
  const scale = Math.min(least * MOST_ZOOM, Math.max(least / 2, view.scale * factor));
  // What is under the pointer stays there.
  view.x += (x - width / 2) * (1 / view.scale - 1 / scale);
  view.y += (y - height / 2) * (1 / view.scale - 1 / scale);
  view.scale = scale;
  drawSoon();
}

// The image under a place of the screen: a thumbnail, else the nearest point within reach.
function findAt(x, y, reach = REACH) {
  const hit = placed.find(([, left, top, side]) => x >= left && y >= top && x <= left + side && y <= top + side);
  if (hit) return hit[0];
  let [best, least] = [-1, reach];
  places().forEach((point, place) => {
    const [px, py] = onScreen(point);
    const distance = Math.hypot(px - x, py - y);
    if (distance < least && isLit(place)) [best, least] = [place, distance];
  });
  return best;
}

function captionOf(place) {
  const name = names[place];
  const file = name.lastIndexOf("/") + 1;
  const folder = file > 0 ? [make("i", { textContent: name.slice(0, file) })] : [];
  const lines = Object.entries(groups)
    .filter(([, [, of]]) => of[place] >= 0)
    .map(([title, [titles, of]]) => make("span", { textContent: `${title}: ${titles[of[place]] || "none"}` }));
  return make("span", { className: "caption" }, ...folder, make("b", { textContent: name.slice(file) }), ...lines);
}

function show(place) {
  const { source, reason } = imageAt(place);
  const inside = source
    ? make("img", { src: source, alt: names[place] })
    : make("span", { className: "reason", textContent: reason });
  openDialog(make("span", { className: "frame thumbnail" }, inside), captionOf(place), null);
}

function tell(place, x, y) {
  label.hidden = place < 0;
  canvas.style.cursor = place < 0 ? "grab" : "pointer";
  if (place < 0) return;
  const { source } = imageAt(place);
  label.replaceChildren(...(source ? [make("img", { src: source, alt: "" })] : []), captionOf(place));
  label.style.left = `${Math.max(0, Math.min(x + 14, width - label.offsetWidth - 4))}px`;
  label.style.top = `${y + 14 + label.offsetHeight > height ? Math.max(0, y - 14 - label.offsetHeight) : y + 14}px`;
}

// -------- Mouse, fingers, keys

const pointers = new Map();
let travelled = 0;

function middle() {
  const points = [...pointers.values()];
  const x = points.reduce((sum, point) => sum + point[0], 0) / points.length;
  const y = points.reduce((sum, point) => sum + point[1], 0) / points.length;
  const spread = points.length > 1 ? Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]) : 0;
  return { x, y, spread };
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (pointers.size === 0) travelled = 0;
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  tell(-1);
});
canvas.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) {
    if (event.pointerType === "mouse") tell(findAt(event.offsetX, event.offsetY), event.offsetX, event.offsetY);
    return;
  }
  const before = middle();
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  const now = middle();
  travelled += Math.hypot(now.x - before.x, now.y - before.y) + Math.abs(now.spread - before.spread);
  moveBy(now.x - before.x, now.y - before.y);
  if (before.spread > 0 && now.spread > 0) zoomBy(now.spread / before.spread, now.x, now.y);
});
canvas.addEventListener("pointerup", (event) => {
  const isClick = pointers.size === 1 && travelled < 6;
  pointers.delete(event.pointerId);
  const place = isClick ? findAt(event.offsetX, event.offsetY) : -1;
  if (place >= 0) show(place);
});
canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
canvas.addEventListener("pointerleave", () => tell(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  tell(-1);
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 0 ? 0.0015 : 0.05)), event.offsetX, event.offsetY);
}, { passive: false });

const STEP = 60;
const KEYS = {
  ArrowLeft: () => moveBy(STEP, 0),
  ArrowRight: () => moveBy(-STEP, 0),
  ArrowUp: () => moveBy(0, STEP),
  ArrowDown: () => moveBy(0, -STEP),
  "+": () => zoomBy(1.3),
  "=": () => zoomBy(1.3),
  "-": () => zoomBy(1 / 1.3),
  0: showAll,
  Enter: () => {
    const place = findAt(width / 2, height / 2, Infinity);
    if (place >= 0) show(place);
  },
};
canvas.addEventListener("keydown", (event) => {
  if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  tell(-1);
  KEYS[event.key]();
});
for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, drawSoon);
document.getElementById("in").onclick = () => zoomBy(1.5);
document.getElementById("out").onclick = () => zoomBy(1 / 1.5);
document.getElementById("all").onclick = showAll;

// -------- What is searched for, and what colours say

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...names.keys()].filter((place) => words.every((word) => searched[place].includes(word)));
  matches = words.length ? new Set(found) : null;
  match = -1;
  const all = names.length.toLocaleString("en");
  count.textContent = matches ? `${found.length.toLocaleString("en")} of ${all} images; Enter goes to each` : `${all} images`;
  drawSoon();
}

search.addEventListener("input", filter);
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !matches || matches.size === 0) return;
  match = (match + 1) % matches.size;
  const place = [...matches][match];
  const [x, y] = places()[place];
  Object.assign(view, { x, y, scale: Math.max(view.scale, 4 * fitting()) });
  count.textContent = `${match + 1} of ${matches.size}: ${names[place]}`;
  drawSoon();
});

function fillLegend() {
  chosenGroup = -1;
  const found = groups[choice.colours.value];
  const sizes = found ? found[0].map(() => 0) : [];
  if (found) for (const group of found[1]) if (group >= 0) sizes[group] += 1;
  const entries = sizes.slice(0, COLOURS.length).map((size, group) => {
    const mark = make("i", {});
    mark.style.background = COLOURS[group];
    const text = `${found[0][group] || "none"} (${size.toLocaleString("en")})`;
    const button = make("button", { type: "button", ariaPressed: "false" }, mark, text);
    button.onclick = () => light(chosenGroup === group ? -1 : group);
    return make("li", {}, button);
  });
  if (sizes.length > COLOURS.length) {
    const mark = make("i", {});
    mark.style.background = OTHERS;
    entries.push(make("li", {}, make("span", {}, mark, `${sizes.length - COLOURS.length} others`)));
  }
  legend.replaceChildren(...entries);
  drawSoon();
}

function light(group) {
  chosenGroup = group;
  [...legend.querySelectorAll("button")].forEach((button, place) => (button.ariaPressed = String(place === group)));
  drawSoon();
}

function offer(select, titles) {
  select.replaceChildren(...titles.map((title) => make("option", { value: title, textContent: title })));
  select.parentNode.hidden = titles.length < 2;
}

function resize() {
  const isFirst = width === 0;
  const zoom = isFirst ? 1 : view.scale / fitting();
  [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (isFirst) showAll();
  view.scale = fitting() * zoom;
  draw();
}

offer(choice.layout, Object.keys(layouts));
offer(choice.colours, [...Object.keys(groups), "none"]);
choice.layout.onchange = showAll;
choice.colours.onchange = fillLegend;
choice.pictures.onchange = drawSoon;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSoon);
new ResizeObserver(resize).observe(canvas);
fillLegend();
filter();
