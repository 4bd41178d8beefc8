// What is selected, in words.
function drawDetails() {
  const box = $("details");
  const { columns, kinds, metric, folder, front } = study();
  const i = view.row;
  if (i === null) {
    const some = columns.trial.length > 0;
    fill(box, make("h2", { id: "details-title" }, some ? "No trial selected" : "No trial yet"),
      make("p", { class: "said" }, some ? "Choose a point, a row or a line." : "What is chosen will be told here."));
    return;
  }
  const pairs = [
    [metric, columns.quality[i] === null ? "no score" : `${score(columns.quality[i])} ± ${score(columns.stderr[i])}`],
    ["parameters", `${whole(columns.params[i])} (${percent(columns.fraction[i])} of the backbone)`],
    ["learning rate", small(columns.learning_rate[i])],
    columns.weight_decay[i] ? ["weight decay", small(columns.weight_decay[i])] : null,
    ["training time", span(columns.seconds[i])],
    columns.mergeable[i] === null ? null : ["merges", yesNo(columns.mergeable[i])],
    ...study().costs.map((cost, k) => (["trainable_params", "seconds"].includes(cost.name) || columns.costs[i][k] === null
      ? null : [`${cost.label}${cost.predicted ? ", predicted" : ""}`, amount(columns.costs[i][k], cost.unit)])),
    ...study().costs.map((cost, k) => (columns.alone[i][k] === null
      ? null : [`${cost.label}, measured alone`, amount(columns.alone[i][k], cost.unit)])),
  ].filter(Boolean);
  const ops = columns.ops[i].map(([kind, sizes, params, sized]) => {
    const [name, read, write] = kinds[kind];
    const total = params.reduce((sum, n) => sum + n, 0);
    return make("tr", {}, make("th", { scope: "row" }, name, make("span", { class: "path" }, read === write ? `at ${write}` : `${read} → ${write}`)),
      make("td", {}, profile(sizes), make("span", { class: "sizes" }, sizes.map((size) => (size ? (sized ? size : "•") : "–")).join(" "))),
      make("td", { class: "number" }, params.length ? whole(total) : ""));
  });
  const measured = columns.measurements[i].map(([rung, replicate, steps, quality, stderr, seconds, failure, split]) =>
    make("tr", {}, make("td", { class: "number" }, `${rung}`), make("td", { class: "number" }, `${replicate}`),
      make("td", { class: "number" }, whole(steps)), make("td", {}, split),
      make("td", { class: failure ? "" : "number" }, failure || `${score(quality)} ± ${score(stderr)}`), make("td", { class: "number" }, span(seconds))));
  const kept = STATES[columns.state[i]] === "front" || columns.trial[i] === front.recommended;
  const commands = kept
    ? ["native", ...(columns.mergeable[i] ? ["merged"] : [])].map((to) => `autopeft export ${folder} --pick ${columns.trial[i]} --to ${to} -o OUT`)
    : [`autopeft front ${folder} --genotype ${columns.trial[i]} > genotype.yaml`];
  fill(box,
    make("div", { class: "head" }, make("h2", { id: "details-title" }, `Trial ${columns.trial[i]}`), stateMark(columns.state[i])),
    make("p", { class: "what" }, columns.summary[i]),
    make("p", { class: "said" }, notation(columns.summary[i])),
    make("p", { class: "tags" }, tagsOf(columns, i)),
    make("dl", { class: "pairs" }, pairs.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text)))),
    ops.length ? [make("h3", {}, "Ops, and their size from the lowest layer to the highest"),
      make("div", { class: "scroll" }, make("table", { class: "ops" }, make("tbody", {}, ops)))] : null,
    columns.unlike[i].length ? [make("h3", {}, "Beside LoRA as published (q and v, rank 8)"),
      make("ul", { class: "unlike" }, columns.unlike[i].map((line) => make("li", {}, line)))] : null,
    make("h3", {}, "Measurements"), curve(i),
    make("div", { class: "scroll" }, make("table", { class: "measured" },
      make("thead", {}, make("tr", {}, ["rung", "seed", "steps", "rows", metric, "time"].map((title) => make("th", { scope: "col", class: title === "rows" ? null : "number" }, title)))),
      make("tbody", {}, measured))),
    make("h3", {}, kept ? "Take it" : "Take its genotype, to train it again; weights are kept of the front and of what is recommended"), commands.map(copyable));
}

const SVG = "http://www.w3.org/2000/svg";

function drawn(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// Sizes by layer as bars.
function profile(sizes) {
  const most = Math.max(1, ...sizes), wide = Math.max(3, Math.min(9, 108 / sizes.length));
  const picture = drawn("svg", { width: wide * sizes.length, height: 18, class: "profile", "aria-hidden": "true" });
  sizes.forEach((size, layer) => {
    const high = size ? Math.max(2, (17 * size) / most) : 1;
    picture.append(drawn("rect", { x: layer * wide, y: 18 - high, width: wide - 1.5, height: high, class: size ? "on" : "off" }));
  });
  return picture;
}

// Mean of what every rung measures by steps, where there is more than one rung.
function curve(row) {
  const points = curvePoints(row);
  if (points.length < 2) return null;
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const low = Math.min(...ys), high = Math.max(...ys);
  const at = ([x, y]) => [4 + (232 * (x - xs[0])) / (xs.at(-1) - xs[0]), 36 - (high > low ? (30 * (y - low)) / (high - low) : 15)];
  const picture = drawn("svg", { viewBox: "0 0 240 40", class: "curve", role: "img",
    "aria-label": `${study().rung_metric} from ${score(ys[0])} at ${xs[0]} steps to ${score(ys.at(-1))} at ${xs.at(-1)} steps` });
  picture.append(drawn("polyline", { points: points.map((point) => at(point).join(",")).join(" ") }));
  for (const point of points) picture.append(drawn("circle", { cx: at(point)[0], cy: at(point)[1], r: 3 }));
  return picture;
}

function curvePoints(row) {
  const bySteps = new Map();
  for (const [, , steps, , , , , , value] of study().columns.measurements[row]) {
    if (value !== null) bySteps.set(steps, [...(bySteps.get(steps) || []), value]);
  }
  return [...bySteps].sort(([a], [b]) => a - b).map(([steps, values]) => [steps, values.reduce((s, v) => s + v, 0) / values.length]);
}

function copyable(command, k) {
  const code = make("code", { tabindex: "0", "data-focus": `command ${k}` }, command);
  const button = make("button", { type: "button", class: "quiet", "data-focus": `copy ${k}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch { // not allowed here: mark it, so that the reader's own copy takes it
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  });
  return make("div", { class: "command" }, code, button);
}
