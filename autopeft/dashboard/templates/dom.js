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

function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

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

// A table of plain values that is made when it is opened, its rows in portions.
function dataTable(figure) {
  const portion = 200;
  const box = make("details", { class: "data" }, make("summary", {}, "Data of this figure"));
  box.addEventListener("toggle", () => {
    if (!box.open || box.querySelector("table")) return;
    const head = make("tr", {}, figure.head.map((title) => make("th", { scope: "col" }, title)));
    const body = make("tbody");
    const more = make("button", { type: "button", class: "quiet" });
    let shown = 0;
    const grow = () => {
      for (const row of figure.rows.slice(shown, shown + portion)) {
        body.append(make("tr", {}, row.map(cell)));
      }
      shown = Math.min(shown + portion, figure.rows.length);
      more.hidden = shown === figure.rows.length;
      more.textContent = `Show more (${whole(shown)} of ${whole(figure.rows.length)} rows)`;
    };
    more.addEventListener("click", grow);
    grow();
    const caption = make("caption", { class: "hidden" }, figure.title);
    const table = make("table", {}, caption, make("thead", {}, head), body);
    box.append(make("div", { class: "scroll", tabindex: "0" }, table), more);
  });
  return box;
}

function cell(value) {
  const number = typeof value === "number";
  const text = value === null ? "–" : number ? `${+value.toPrecision(6)}` : value;
  return make("td", { class: number ? "number" : null }, text);
}
