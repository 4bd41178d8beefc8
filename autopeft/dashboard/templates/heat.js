// Where the parameters sit: layers by taps, as a table, so that it is its own accessible equivalent.
let heatMode = "trial";

// {layer, tap} -> {params, names} of one trial.
function placement(row) {
  const { columns, kinds } = study();
  const cells = new Map();
  for (const [kind, sizes, params, sized] of columns.ops[row]) {
    const [name, , write] = kinds[kind];
    sizes.forEach((size, layer) => {
      if (!size) return;
      const key = `${layer} ${write}`;
      const cell = cells.get(key) || { params: 0, names: [] };
      cell.params += params.length ? params[layer] : 0;
      cell.names.push(sized ? `${name} ${name === "prefix" ? "l" : "r"}${size}` : name);
      cells.set(key, cell);
    });
  }
  return cells;
}

function drawHeat() {
  const { taps, n_layers: layers, average } = study();
  const trial = heatMode === "trial" && view.row !== null;
  const head = make("div", { class: "head" }, make("h2", { id: "heat-title" }, "Where the parameters sit"), heatToggle(trial));
  if (!taps.length || !layers) {
    fill($("heat"), head, make("p", { class: "said" }, "No trial has an op yet."));
    return;
  }
  const cells = trial ? placement(view.row) : averaged(average.shares);
  const amount = (value) => (trial ? short(value) : value >= 0.0005 ? `${+(100 * value).toPrecision(2)} %` : "<0.1 %");
  const table = make("table", { class: `heat${layers > 16 ? " deep" : ""}`, "aria-labelledby": "heat-title" },
    heatHead(taps, trial), ...heatBody(cells, taps, layers, amount, trial));
  fill($("heat"), head, make("p", { class: "said" }, heatWords(cells, trial)), make("div", { class: "scroll" }, table),
    make("p", { class: "said" }, "A fuller colour is more; it follows the square root, so that small ops stay visible."));
}

function heatToggle(trial) {
  const modes = [["trial", view.row === null ? "selected trial" : `trial ${study().columns.trial[view.row]}`], ["front", "average of the front"]];
  const buttons = modes.map(([mode, text]) => make("button", {
    type: "button", "data-mode": mode, "data-focus": `map ${mode}`, "aria-pressed": (trial ? "trial" : "front") === mode ? "true" : "false",
    onclick: () => { heatMode = mode; keepingFocus(drawHeat); },
  }, text));
  return make("div", { class: "toggle", role: "group", "aria-label": "What the map shows" }, buttons);
}

function totalOf(cells) {
  return [...cells.values()].reduce((sum, cell) => sum + cell.params, 0);
}

function heatWords(cells, trial) {
  const total = totalOf(cells);
  if (!cells.size) return trial ? "No op stands anywhere in this trial." : "The front has no trial with ops.";
  if (!total) return "The study does not say how wide its model is, so ops are shown without their parameters.";
  if (!trial) return `Mean share of a trial’s parameters over the ${study().average.trials} trials of the front that have ops; each weighs the same.`;
  const shared = study().columns.params[view.row] - total;
  return `${whole(total)} parameters${shared ? `, and ${whole(shared)} more that its layers share` : ""}: columns are the places `
    + "in a layer that ops write to, in the order of computation; the lowest layer is at the bottom.";
}

function heatHead(taps, trial) {
  const widths = new Map(); // taps come in the order of computation, so those of a part stand together
  for (const { part } of taps) widths.set(part, (widths.get(part) || 0) + 1);
  const brackets = [...widths].map(([part, width]) => make("th", { colspan: width, scope: "colgroup" }, part));
  return make("thead", {}, make("tr", { class: "brackets" }, make("td"), brackets, make("td")),
    make("tr", {}, make("th", { scope: "col", class: "corner" }, "layer"), taps.map((tap) => make("th", { scope: "col" }, breakable(tap.name))),
      make("th", { scope: "col", class: "sum" }, trial ? "sum" : "share")));
}

function heatBody(cells, taps, layers, amount, trial) {
  const total = totalOf(cells), most = Math.max(1e-12, ...[...cells.values()].map((cell) => cell.params));
  const sum = (keys) => keys.reduce((found, key) => found + (cells.get(key)?.params || 0), 0);
  const numbers = [...Array(layers).keys()];
  const byLayer = numbers.map((layer) => sum(taps.map((tap) => `${layer} ${tap.name}`)));
  const byTap = taps.map((tap) => sum(numbers.map((layer) => `${layer} ${tap.name}`)));
  const rows = numbers.toReversed().map((layer) => make("tr", {}, make("th", { scope: "row" }, `${layer}`),
    taps.map((tap) => heatCell(cells.get(`${layer} ${tap.name}`), `layer ${layer}, ${tap.name}`, total, most, amount)),
    bar(byLayer[layer], Math.max(...byLayer), amount)));
  const sums = make("tr", { class: "sums" }, make("th", { scope: "row" }, trial ? "sum" : "share"),
    byTap.map((found) => bar(found, Math.max(...byTap), amount, true)), make("td"));
  return [make("tbody", {}, rows), make("tfoot", {}, sums)];
}

function heatCell(cell, place, total, most, amount) {
  if (!cell) return make("td", { class: "cell none" }, make("span", { class: "hidden" }, "0"));
  const strength = Math.sqrt(cell.params / most);
  const part = Math.round(8 + 92 * strength); // of the colour; where black and white are as legible: 65 % on dark, 94 % on light
  const shade = part >= 94 ? " strong" : part >= 65 ? " middling" : "";
  const size = total ? `${amount(cell.params)} (${percent(cell.params / total)} of all)` : "";
  const node = make("td", { class: `cell${shade}`, title: [place, ...cell.names, size].filter(Boolean).join(": ") },
    make("span", { class: "value" }, total ? amount(cell.params) : "•"), cell.names.map((name) => make("span", { class: "op" }, name)));
  node.style.setProperty("--t", `${part}%`);
  return node;
}

function averaged(shares) {
  const cells = new Map();
  for (const [tap, column] of Object.entries(shares)) {
    column.forEach((share, layer) => { if (share) cells.set(`${layer} ${tap}`, { params: share, names: [] }); });
  }
  return cells;
}

function bar(sum, largest, amount, upright) {
  const track = make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "fill" }));
  track.firstChild.style.setProperty("--part", `${largest ? (100 * sum) / largest : 0}%`);
  return make("td", { class: `bar${upright ? " upright" : ""}` }, track, make("span", { class: "value" }, sum ? amount(sum) : "0"));
}
