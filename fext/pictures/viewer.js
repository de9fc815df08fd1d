"use strict";

const PER_BLOCK = 200; // images of a block of data, and those shown at a time

const names = readData("names");
const searched = names.map((name) => name.toLowerCase());
const neighbours = document.getElementById("neighbours") ? readData("neighbours") : null;
const grid = document.getElementById("grid");
const more = document.getElementById("more");
const count = document.getElementById("count");
const search = document.getElementById("search");
const blocks = new Map();
let matches = [];

function readData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

// Thumbnails are read a block at a time, when they are looked at.
function find(place) {
  const number = Math.floor(place / PER_BLOCK);
  if (!blocks.has(number)) blocks.set(number, readData(`images-${number}`));
  const [thumbnail, lines, reason] = blocks.get(number)[place % PER_BLOCK];
  return { name: names[place], lines, reason, source: thumbnail && `data:image/webp;base64,${thumbnail}` };
}

function makeFrame({ source, reason, name }) {
  const inside = source ? make("img", { src: source, alt: name }) : make("span", { className: "reason", textContent: reason });
  return make("span", { className: "frame" }, inside);
}

function makeCaption(name, lines) {
  const file = name.lastIndexOf("/") + 1;
  const folder = file > 0 ? [make("i", { textContent: name.slice(0, file) })] : [];
  const rest = lines.map((line) => make("span", { textContent: line }));
  return make("span", { className: "caption" }, ...folder, make("b", { textContent: name.slice(file) }), ...rest);
}

function makeItem(place) {
  const image = find(place);
  const item = make("button", { type: "button", className: "item" }, makeFrame(image), makeCaption(image.name, []));
  item.onclick = () => show(place);
  return item;
}

function showMore() {
  const shown = grid.childElementCount;
  grid.append(...matches.slice(shown, shown + PER_BLOCK).map(makeItem));
  const now = grid.childElementCount;
  more.hidden = now === matches.length;
  const all = matches.length === names.length ? "" : ` of ${names.length.toLocaleString("en")}`;
  count.textContent = `${matches.length.toLocaleString("en")}${all} images, ${now.toLocaleString("en")} shown`;
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  matches = [...names.keys()].filter((place) => words.every((word) => searched[place].includes(word)));
  grid.replaceChildren();
  showMore();
}

function show(place) {
  const image = find(place);
  const frame = makeFrame(image);
  frame.classList.add("thumbnail");
  openDialog(frame, makeCaption(image.name, image.lines), stepper(place), nearTo(place));
}

function stepper(place) {
  const at = matches.indexOf(place);
  if (at < 0 || matches.length < 2) return null;
  return (step) => show(matches[(at + step + matches.length) % matches.length]);
}

function nearTo(place) {
  if (neighbours === null) return [];
  const items = neighbours[place].map(([other, similarity]) => {
    const image = find(other);
    const caption = makeCaption(image.name, [similarity.toFixed(3)]);
    const item = make("button", { type: "button", className: "item" }, makeFrame(image), caption);
    item.onclick = () => show(other);
    return item;
  });
  if (items.length === 0) return [];
  const heading = make("h3", { textContent: readData("nearest-by") });
  return [make("div", { className: "near" }, heading, make("div", { className: "gallery" }, ...items))];
}

let waiting = 0;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 100);
});
more.addEventListener("click", showMore);
filter();
