// Figures: colours by role, drawn when they come into sight, the selection marked in each.
const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const LEGEND_BELOW = { orientation: "h", xref: "container", yref: "container", x: 0, y: 0, yanchor: "bottom",
  font: { size: 11 } }; // on a narrow screen
const IN_HALVES = { entrywidth: 0.5, entrywidthmode: "fraction" }; // of the names of states, which are short
const figures = new Map(); // node -> figure
let paper = null; // size of every figure while the page is printed

function painted(figure) {
  const ink = colour("ink"), soft = colour("soft"), line = colour("line");
  const data = figure.plot.data.map((trace) => {
    const own = colour(trace.meta?.role || "dominated");
    const marker = { ...trace.marker, color: own, line: { ...trace.marker?.line, color: trace.type === "bar" ? colour("panel") : own } };
    return { ...trace, marker, line: { ...trace.line, color: own },
      ...(trace.error_y ? { error_y: { ...trace.error_y, color: own } } : {}),
      ...(trace.error_x ? { error_x: { ...trace.error_x, color: own } } : {}) };
  });
  const axis = (given) => ({ ...given, gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line,
    tickfont: { color: soft, size: 12 }, title: { ...given?.title, font: { color: soft, size: 13 }, standoff: 8 }, automargin: true });
  const given = figure.plot.layout;
  const layout = { ...given, xaxis: axis(given.xaxis), yaxis: axis(given.yaxis),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { color: ink, size: 13, family: "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
    margin: { l: 56, r: 12, t: 12, b: 48 }, hovermode: "closest", dragmode: innerWidth < 700 ? false : "zoom",
    hoverlabel: { bgcolor: colour("panel"), bordercolor: line, font: { color: ink } },
    shapes: (given.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: soft } })),
    uirevision: `${view.study} ${figure.title}` };
  data.push(marked(figure));
  if (figure.kind === "timeline") markJobs(data[0]);
  return [data, layout];
}

// The trace that marks what is selected; empty where nothing is.
function marked(figure) {
  const [x, y] = view.row === null ? [[], []] : whereabouts(figure, view.row);
  const lines = ["parallel", "curves"].includes(figure.kind);
  return { type: "scatter", x, y, mode: lines ? "lines+markers" : "markers", showlegend: false, hoverinfo: "skip", cliponaxis: false,
    marker: { symbol: lines ? "circle" : "circle-open", size: lines ? 7 : 27, color: colour("ink"), line: { width: lines ? 0 : 2.5, color: colour("ink") } },
    line: { color: colour("ink"), width: 3 } };
}

function whereabouts(figure, row) {
  const columns = study().columns, meta = figure.plot.layout.meta;
  if (figure.kind === "pareto") {
    const cost = study().costs[view.cost], value = columns.costs[row][view.cost];
    if (value === null) return [[], []];
    return [[cost.log && value <= 0 ? meta.zero : value / meta.per], [columns.quality[row] ?? meta.floor]];
  }
  if (figure.kind === "curves") {
    const points = curvePoints(row);
    return points.length > 1 ? [points.map(([x]) => x), points.map(([, y]) => y)] : [[], []];
  }
  if (figure.kind === "selected") {
    const at = figure.plot.data[0].customdata.indexOf(row);
    return at < 0 ? [[], []] : [[figure.plot.data[0].x[at]], [figure.plot.data[0].y[at]]];
  }
  if (figure.kind === "parallel") {
    const scaled = (axis, value) => (!axis.log ? value : axis.key === "params" ? Math.log1p(value) : Math.log10(value));
    const at = meta.axes.map((axis) => {
      const value = columns[axis.key][row], low = scaled(axis, axis.low), high = scaled(axis, axis.high);
      return value === null ? null : high > low ? (scaled(axis, value) - low) / (high - low) : 0.5;
    });
    return [meta.axes.map((_, k) => k), at];
  }
  return [[], []];
}

function markJobs(trace) {
  const jobs = trace.meta.jobs.flatMap((rows, k) => (rows.includes(view.row) ? [k] : []));
  trace.selectedpoints = jobs.length ? jobs : null;
  trace.unselected = { marker: { opacity: 0.4 } };
}

function draw(node) {
  const figure = figures.get(node);
  if (!figure) return;
  const [data, layout] = painted(figure);
  Object.assign(layout, paper);
  const width = paper?.width || node.clientWidth;
  if (layout.legend && width < 520) layout.legend = figure.kind === "pareto" && width > 300 ? { ...LEGEND_BELOW, ...IN_HALVES } : LEGEND_BELOW;
  node.classList.toggle("under", !!layout.legend && width >= 520); // its buttons
  const first = !node.classList.contains("drawn");
  node.classList.add("drawn");
  Plotly.react(node, data, layout, CONFIG).then(() => { if (first) link(node); });
}

function link(node) {
  node.on("plotly_click", (event) => {
    const point = event.points[0];
    const rows = rowsOf(node, point);
    if (!rows) return;
    if (figures.get(node).kind === "fronts") return show(...rows);
    select(rows[(rows.indexOf(view.row) + 1) % rows.length]);
  });
  node.on("plotly_hover", (event) => {
    const rows = rowsOf(node, event.points[0]), { kind } = figures.get(node);
    if (rows) tip(event.event, kind === "fronts" ? rows : [view.study, ...rows], kind === "pareto" ? view.cost : 0, kind === "fronts");
  });
  node.on("plotly_unhover", () => { $("tip").hidden = true; });
}

// The trials behind a point: [row, ...]; of a comparison [study, row].
function rowsOf(node, point) {
  const meta = point.data.meta || {};
  if (meta.jobs) return meta.jobs[point.pointIndex];
  if (meta.compares) return point.customdata;
  return meta.linked ? [point.customdata] : null;
}

// What is known of some trials of a study; `k` is the cost of the axis, `named` whether several studies are there.
function tip(event, [place, ...rows], k, named) {
  const { columns, metric, costs, name } = DATA.studies[place];
  const cost = (i) => (k && columns.costs[i][k] !== null ? `, ${costs[k].label} ${amount(columns.costs[i][k], costs[k].unit)}` : "");
  const found = (i) => (columns.quality[i] === null ? (columns.failure[i] || "no score").replaceAll("_", " ")
    : `${metric} ${score(columns.quality[i])} ± ${score(columns.stderr[i])}`);
  fill($("tip"), named ? make("div", { class: "study" }, name) : null, rows.slice(0, 4).map((i) => make("div", {},
    make("strong", {}, `Trial ${columns.trial[i]}`), ` ${STATES[columns.state[i]]}`,
    make("div", {}, `${found(i)}, ${whole(columns.params[i])} parameters${cost(i)}`),
    make("div", { class: "said" }, columns.summary[i]))));
  const box = $("tip");
  box.hidden = false;
  box.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${Math.max(4, event.clientY + 14 + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : event.clientY + 14)}px`;
}

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      sight.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "300px" });

function place(node, figure) {
  figures.set(node, figure);
  if (node.classList.contains("drawn")) draw(node);
  else sight.observe(node);
}

function redraw() {
  for (const node of figures.keys()) if (node.classList.contains("drawn")) draw(node);
}

const MARKED = ["pareto", "selected", "parallel", "curves", "timeline"];
let marking = 0;
function markAll() { // a key that is held down selects faster than plots are drawn
  clearTimeout(marking);
  marking = setTimeout(() => {
    for (const [node, figure] of figures) {
      if (MARKED.includes(figure.kind) && node.classList.contains("drawn")) draw(node);
    }
  }, 40);
}

function drawFront() {
  const { costs, metric } = study();
  const cost = costs[view.cost];
  fill($("cost"), costs.map((item, k) => make("option", { value: k, selected: k === view.cost }, item.label)));
  $("front-title").textContent = `Front: ${cost.figure.title}`;
  $("front-said").textContent = study().columns.trial.length ? cost.figure.description : `No trial yet: ${metric} will be here.`;
  place($("front-plot"), cost.figure);
}

// A figure with its words and data. `renew` takes another state of it, and keeps what is open.
let boxes = 0;
function figureBox(first) {
  const id = `figure-${boxes++}`;
  const said = make("p", { class: "said", id: `${id}-said` });
  const plot = make("div", { class: "plot", role: "group", id: `${id}-plot`, "aria-labelledby": id, "aria-describedby": said.id });
  const data = dataTable(first);
  const box = make("figure", { class: `panel ${first.kind}` }, make("h2", { id }, first.title), said, plot, data.box);
  const renew = (figure) => {
    said.textContent = figure.description;
    place(plot, figure);
    data.renew(figure);
  };
  renew(first);
  return { box, plot, renew };
}

function forget(plot) {
  sight.unobserve(plot);
  figures.delete(plot);
  if (plot.classList.contains("drawn")) Plotly.purge(plot);
}

// Figures into a section: those of the same study that are there already stay where they are.
const drawnIn = new Map(); // section -> study and title -> box
function fillFigures(section, list) {
  const before = drawnIn.get(section) || new Map(), now = new Map();
  for (const figure of list) {
    const key = `${view.study} ${figure.title}`;
    if (before.has(key)) before.get(key).renew(figure);
    now.set(key, before.get(key) || figureBox(figure));
  }
  for (const [key, { box, plot }] of before) {
    if (now.has(key)) continue;
    forget(plot);
    box.remove();
  }
  [...now.values()].forEach(({ box }, k) => {
    if (section.children[k] !== box) section.insertBefore(box, section.children[k] || null);
  });
  drawnIn.set(section, now);
}

function drawComparison() {
  $("compare").hidden = !DATA.compare.length;
  fillFigures($("compare"), DATA.compare);
}
