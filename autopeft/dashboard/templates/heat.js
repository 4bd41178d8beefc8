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
  const box = $("heat");
  const trial = heatMode === "trial" && view.row !== null;
  const toggle = make("div", { class: "toggle", role: "group", "aria-label": "What the map shows" },
    [["trial", view.row === null ? "selected trial" : `trial ${study().columns.trial[view.row]}`], ["front", "average of the front"]]
      .map(([mode, text]) => make("button", {
        type: "button", "aria-pressed": (trial ? "trial" : "front") === mode ? "true" : "false", "data-mode": mode,
        onclick: () => { heatMode = mode; drawHeat(); box.querySelector(`[data-mode="${mode}"]`).focus(); },
      }, text)));
  const head = make("div", { class: "head" }, make("h2", { id: "heat-title" }, "Where the parameters sit"), toggle);
  if (!taps.length || !layers) {
    fill(box, head, make("p", { class: "said" }, "No trial has an op yet."));
    return;
  }
  const cells = trial ? placement(view.row) : averaged(average.shares);
  const values = [...cells.values()];
  const total = values.reduce((sum, cell) => sum + cell.params, 0);
  const most = Math.max(1e-12, ...values.map((cell) => cell.params));
  const shared = trial && total ? study().columns.params[view.row] - total : 0;
  const said = !values.length
    ? (trial ? "This trial is the head alone: no op stands anywhere." : "The front has no trial with ops.")
    : !total
      ? "The study does not say how wide its model is, so ops are shown without their parameters."
      : trial
        ? `${whole(total)} parameters${shared ? `, and ${whole(shared)} more that its layers share` : ""}: columns are the places in a layer that ops write to, in the order of computation; the lowest layer is at the bottom.`
        : `Mean share of a trial’s parameters over the ${average.trials} trials of the front that have ops; each weighs the same.`;
  const amount = (value) => (trial ? short(value) : value >= 0.0005 ? `${+(100 * value).toPrecision(2)} %` : "<0.1 %");
  const groups = [["attention", taps.filter((tap) => tap.attention)], ["feed-forward", taps.filter((tap) => !tap.attention)]];
  const brackets = make("tr", { class: "brackets" }, make("td"),
    groups.filter(([, own]) => own.length).map(([name, own]) => make("th", { colspan: own.length, scope: "colgroup" }, name)), make("td"));
  const titles = make("tr", {}, make("th", { scope: "col", class: "corner" }, "layer"),
    taps.map((tap) => make("th", { scope: "col" }, tap.name)), make("th", { scope: "col", class: "sum" }, trial ? "sum" : "share"));
  const sumOf = (chosen) => chosen.reduce((sum, key) => sum + (cells.get(key)?.params || 0), 0);
  const layerSums = [...Array(layers).keys()].map((layer) => sumOf(taps.map((tap) => `${layer} ${tap.name}`)));
  const tapSums = taps.map((tap) => sumOf([...Array(layers).keys()].map((layer) => `${layer} ${tap.name}`)));
  const rows = [];
  for (let layer = layers - 1; layer >= 0; layer--) {
    const line = taps.map((tap, t) => {
      const cell = cells.get(`${layer} ${tap.name}`);
      const edge = t && tap.attention !== taps[t - 1].attention ? " edge" : "";
      if (!cell) return make("td", { class: `cell none${edge}` }, make("span", { class: "hidden" }, "0"));
      const strength = Math.sqrt(cell.params / most);
      const node = make("td", {
        class: `cell${strength > 0.8 ? " strong" : strength > 0.6 ? " middling" : ""}${edge}`,
        title: `layer ${layer}, ${tap.name}: ${cell.names.join(" and ") || "on average"}${total ? `, ${amount(cell.params)}${trial ? ` parameters (${percent(cell.params / total)})` : ""}` : ""}`,
      }, make("span", { class: "value" }, total ? amount(cell.params) : "•"),
        ...cell.names.map((name) => make("span", { class: "op" }, name)));
      node.style.setProperty("--t", `${Math.round(8 + 92 * strength)}%`);
      return node;
    });
    rows.push(make("tr", {}, make("th", { scope: "row" }, `${layer}`), line, bar(layerSums[layer], Math.max(...layerSums), amount)));
  }
  const sums = tapSums.map((sum) => bar(sum, Math.max(...tapSums), amount, true));
  const foot = make("tr", { class: "sums" }, make("th", { scope: "row" }, trial ? "sum" : "share"), sums, make("td"));
  fill(box, head, make("p", { class: "said" }, said),
    make("div", { class: "scroll" }, make("table", { class: `heat${layers > 16 ? " deep" : ""}`, "aria-labelledby": "heat-title" },
      make("thead", {}, brackets, titles), make("tbody", {}, rows), make("tfoot", {}, foot))),
    make("p", { class: "said" }, "Darker is more; the shade follows the square root, so that small ops stay visible."));
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
