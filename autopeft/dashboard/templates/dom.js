// Building the page: every text from the data goes through a text node, never through HTML.
const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// What is the same already stays, with the reader's focus and marks in it.
function fill(node, ...children) {
  const next = children.flat().filter((child) => child !== null && child !== undefined);
  const there = [...node.childNodes];
  const same = (child, k) => there[k].isEqualNode(child instanceof Node ? child : new Text(child));
  if (next.length !== there.length || !next.every(same)) node.replaceChildren(...next);
}

// Draw, and give the focus to the new node that stands for the one that had it.
function keepingFocus(draw) {
  const before = document.activeElement, key = before?.dataset.focus;
  draw();
  if (key && !before.isConnected) document.querySelector(`[data-focus="${key}"]`)?.focus({ preventScroll: true });
}

// A name that may go on in the next line after each of its underscores.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [make("wbr"), part]);

const whole = (n) => n.toLocaleString("en-US");
const score = (value) => (value === null ? "–" : value.toFixed(4));
const percent = (fraction) => (fraction ? `${+(100 * fraction).toPrecision(3)} %` : "0 %");
const small = (value) => (value === null ? "–" : `${+value.toPrecision(3)}`);

// A cost with its unit, bytes in powers of 1024.
function amount(value, unit) {
  if (unit !== "B") return `${small(value)} ${unit}`;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1024 ? 0 : Math.min(4, Math.floor(Math.log(value) / Math.log(1024)));
  return `${+(value / 1024 ** power).toPrecision(4)} ${units[power]}`;
}

// What the letters in a trial's words stand for, those that it has.
const LETTERS = { r: "rank or width", l: "length in tokens", f: "side of the Kronecker factor", k: "weights that change", x: "scale" };
function notation(summary) {
  const said = Object.entries(LETTERS).filter(([letter]) => new RegExp(`\\b${letter}${letter === "x" ? "[ \\d]" : "\\d"}`).test(summary))
    .map(([letter, meaning]) => `${letter}: ${meaning}`);
  return [...said, ...(/\blayers? \d/.test(summary) ? ["layers count from 0, the lowest"] : [])].join("; ");
}

function span(seconds) {
  if (seconds < 90) return `${+seconds.toPrecision(3)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function short(n) {
  if (n < 1000) return `${n}`;
  if (n < 1e6) return `${+(n / 1e3).toPrecision(3)}k`;
  return `${+(n / 1e6).toPrecision(3)}M`;
}

// A table of plain values that is made while it is open, its rows in portions. `renew` takes
// another state of the figure.
function dataTable(figure) {
  const portion = 200;
  let shown = portion;
  const table = make("table");
  const more = make("button", { type: "button", class: "quiet", onclick: () => { shown += portion; draw(); } });
  const box = make("details", { class: "data", ontoggle: () => draw() }, make("summary", {}, "Data of this figure"),
    make("div", { class: "scroll", tabindex: "0" }, table), more);
  const draw = () => {
    if (!box.open) return;
    const head = make("tr", {}, figure.head.map((title) => make("th", { scope: "col" }, title)));
    const rows = figure.rows.slice(0, shown).map((row) => make("tr", {}, row.map(cell)));
    fill(table, make("caption", { class: "hidden" }, figure.title), make("thead", {}, head), make("tbody", {}, rows));
    more.hidden = rows.length === figure.rows.length;
    more.textContent = `Show more (${whole(rows.length)} of ${whole(figure.rows.length)} rows)`;
  };
  return { box, renew: (next) => { figure = next; draw(); } };
}

function cell(value) {
  const number = typeof value === "number";
  const text = value === null ? "–" : number ? `${+value.toPrecision(6)}` : value;
  return make("td", { class: number ? "number" : null }, text);
}
