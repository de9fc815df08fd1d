"use strict";

// -------- Plots

const PRINTED_WIDTH = { whole: 660, column: 315 }; // pixels that fit on A4 and on Letter paper
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const LOOK = {
  layout: {
    autosize: true,
    font: { family: FONT, size: 12 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    colorway: ["#4c78a8", "#e4572e", "#54a24b", "#b279a2", "#eeca3b", "#9d755d", "#72b7b2", "#777777"],
    margin: { l: 48, r: 16, t: 16, b: 32 },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { align: "left", font: { family: FONT } },
    xaxis: { automargin: true, zeroline: false, title: { standoff: 8 } },
    yaxis: { automargin: true, zeroline: false, title: { standoff: 8 } },
    // On a touch screen a finger on a plot scrolls the page.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  },
};

const canvases = [...document.querySelectorAll("figure.plot > .canvas")];

function draw(canvas) {
  seen.unobserve(canvas);
  if (canvas.classList.contains("js-plotly-plot")) return;
  const figure = JSON.parse(canvas.nextElementSibling.textContent);
  figure.layout.template = LOOK;
  Plotly.newPlot(canvas, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}

// A page may have dozens of plots: each is drawn when it is about to be seen.
const seen = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "100%" },
);
for (const canvas of canvases) seen.observe(canvas);

addEventListener("beforeprint", () => {
  for (const canvas of canvases) {
    draw(canvas);
    Plotly.relayout(canvas, { width: canvas.closest(".columns") ? PRINTED_WIDTH.column : PRINTED_WIDTH.whole });
  }
});
addEventListener("afterprint", () => {
  for (const canvas of canvases) Plotly.relayout(canvas, { width: null, autosize: true });
});

// -------- Tables

const inOrder = new Intl.Collator(undefined, { numeric: true }).compare;

function sortBy(head) {
  const table = head.closest("table");
  const place = [...head.parentNode.children].indexOf(head);
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => {
    const cell = row.cells[place];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([one], [other]) => {
    if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other); // last either way
    return sign * (typeof one === "number" && typeof other === "number" ? one - other : inOrder(one, other));
  });
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", other === head ? order : "none");
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll(".table table")) {
  const first = table.tBodies[0].rows[0];
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    if (first && first.cells[place].classList.contains("number")) head.classList.add("number-head");
    head.firstElementChild.addEventListener("click", () => sortBy(head));
  });
}

// -------- Galleries

const dialog = document.getElementById("larger");

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function makeButton(text, action, name = "") {
  return make("button", { type: "button", className: `button ${name}`, textContent: text, onclick: action });
}

// `step` goes to the picture before (-1) or after (1) the one that is shown; null where it is the only one.
function openDialog(picture, caption, step, more = []) {
  const buttons = step ? [makeButton("Previous", () => step(-1)), makeButton("Next", () => step(1))] : [];
  const close = makeButton("Close", () => dialog.close(), "close");
  dialog.replaceChildren(picture, caption, ...more, make("div", { className: "buttons" }, ...buttons, close));
  dialog.onkeydown = (event) => {
    if (step && event.key === "ArrowLeft") step(-1);
    if (step && event.key === "ArrowRight") step(1);
  };
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  close.focus({ preventScroll: true });
}

function showLarger(item) {
  const items = [...item.parentNode.querySelectorAll("button.item")];
  const step = (by) => showLarger(items[(items.indexOf(item) + by + items.length) % items.length]);
  const thumbnail = item.querySelector("img");
  const picture = make("img", { src: thumbnail.dataset.larger || thumbnail.src, alt: thumbnail.alt });
  const caption = item.querySelector(".caption").cloneNode(true);
  openDialog(make("span", { className: "frame" }, picture), caption, items.length > 1 ? step : null);
}

for (const item of document.querySelectorAll(".gallery button.item")) item.onclick = () => showLarger(item);

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the picture
});
