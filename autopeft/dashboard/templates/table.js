// The table of trials: the accessible equivalent of the plots. Arrow keys walk through all of it.
const STATES = ["front", "dominated", "over budget", "stopped early", "failed"];
const SIGNS = ["●", "○", "×", "▽", "✕"];
const slug = (state) => state.replace(" ", "-");

const tableState = { key: "quality", down: true, text: "", states: new Set(STATES), page: 0, size: 25 };

const COLUMNS = [
  { key: "trial", title: "Trial", number: true, show: (c, i) => `${c.trial[i]}` },
  { key: "state", title: "State", show: (c, i) => stateMark(c.state[i]) },
  { key: "quality", title: "", number: true, down: true, show: (c, i) => withError(c, i) },
  { key: "params", title: "Parameters", number: true, show: (c, i) => whole(c.params[i]) },
  { key: "fraction", title: "Of backbone", number: true, show: (c, i) => percent(c.fraction[i]) },
  { key: "seconds", title: "Time", number: true, show: (c, i) => span(c.seconds[i]) },
  { key: "learning_rate", title: "Learning rate", number: true, show: (c, i) => small(c.learning_rate[i]) },
  { key: "mergeable", title: "Merges", down: true, show: (c, i) => yesNo(c.mergeable[i]) },
  { key: "summary", title: "What it is", show: (c, i) => words(c, i) },
];

function stateMark(index) {
  const state = STATES[index];
  const sign = make("span", { class: `sign ${slug(state)}`, "aria-hidden": "true" }, SIGNS[index]);
  return make("span", { class: "state" }, sign, ` ${state}`);
}

const yesNo = (value) => (value === null ? "–" : value ? "yes" : "no");

function withError(columns, i) {
  if (columns.quality[i] === null) return "–";
  const error = make("span", { class: "error" }, `± ${score(columns.stderr[i])}`);
  return make("span", {}, `${score(columns.quality[i])} `, error);
}

// What a trial is beside its state.
function tagsOf(columns, i) {
  const { front, verdict } = study();
  const trial = columns.trial[i];
  return [
    trial === front.recommended ? ["recommended", "recommended"] : null,
    verdict.loras.includes(trial) ? ["lora", verdict.scored_on ? "tuned LoRA" : "best LoRA"] : null,
    trial === front.knee ? ["knee", "knee"] : null,
    columns.method[i] ? ["baseline", columns.method[i]] : null,
    columns.failure[i] ? ["failed", columns.failure[i].replaceAll("_", " ")] : null,
  ].filter(Boolean).map(([role, text]) => make("span", { class: `tag ${role}` }, text));
}

function words(columns, i) {
  return make("span", {}, columns.summary[i], ...tagsOf(columns, i).flatMap((tag) => [" ", tag]));
}

function rowName(columns, i) {
  const found = columns.quality[i] === null ? "no score" : `${study().metric} ${score(columns.quality[i])}`;
  return `Trial ${columns.trial[i]}, ${STATES[columns.state[i]]}, ${found}, ${whole(columns.params[i])} parameters: ${columns.summary[i]}`;
}

// The rows that pass the filter, in the order that is shown.
function shownRows() {
  const columns = study().columns;
  const wanted = tableState.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = columns.trial.map((_, i) => i).filter((i) => {
    if (!tableState.states.has(STATES[columns.state[i]])) return false;
    const text = `${columns.trial[i]} ${columns.summary[i]} ${columns.method[i] || ""} ${columns.failure[i] || ""}`;
    return wanted.every((word) => text.toLowerCase().includes(word));
  });
  const values = columns[tableState.key];
  const sign = tableState.down ? -1 : 1;
  return rows.sort((a, b) => {
    const one = values[a], two = values[b];
    if (one === null || two === null) return (one === null) - (two === null) || a - b;
    return (one < two ? -sign : one > two ? sign : 0) || a - b;
  });
}

// What stands around the table whatever the study is: made once, so that typing is not disturbed.
function frameTable() {
  const filter = make("input", {
    type: "search", id: "filter", placeholder: "Filter: lora, ffn, r8 …", "aria-label": "Filter trials",
    oninput: (event) => { tableState.text = event.target.value; tableState.page = 0; drawRows(); },
  });
  const csv = make("button", { type: "button", class: "quiet", id: "csv", onclick: saveCsv }, "Save as CSV");
  fill(
    $("trials"),
    make("div", { class: "head" }, make("h2", { id: "trials-title" }, "Trials"), csv),
    make("div", { class: "tools" }, filter, make("div", { id: "states" })),
    make("div", { class: "scroll" }, make("table", { id: "table", class: "trials", role: "grid", "aria-readonly": "true", "aria-describedby": "keys" })),
    make("div", { class: "pager", id: "pager" }),
    make("p", { class: "said", id: "keys" }, "Arrow keys walk through all trials; Home and End go to the first and the last. "
      + "A trial that is selected here is selected in every plot."),
  );
}

function drawTable() {
  if (!$("table")) frameTable();
  const all = study().columns;
  const present = STATES.filter((_, index) => all.state.includes(index));
  fill($("states"), present.map((state) => {
    const box = make("input", {
      type: "checkbox", value: state, "data-focus": state,
      onchange: (event) => {
        tableState.states[event.target.checked ? "add" : "delete"](state);
        tableState.page = 0;
        drawRows();
      },
    });
    box.checked = tableState.states.has(state);
    return make("label", { class: "check" }, box, stateMark(STATES.indexOf(state)));
  }));
  drawRows();
}

function drawRows() {
  keepingFocus(fillRows);
}

function fillRows() {
  const columns = study().columns;
  const rows = shownRows();
  const pages = Math.max(1, Math.ceil(rows.length / tableState.size));
  tableState.page = Math.min(tableState.page, pages - 1);
  const start = tableState.page * tableState.size;
  const head = make("tr", { role: "row", "aria-rowindex": "1" }, COLUMNS.map((column) => {
    const sorted = tableState.key === column.key;
    const title = column.key === "quality" ? study().metric : column.title;
    const arrow = make("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (tableState.down ? " ↓" : " ↑") : "");
    const button = make("button", {
      type: "button", "data-key": column.key, "data-focus": `sort ${column.key}`,
      onclick: () => {
        tableState.down = sorted ? !tableState.down : !!column.down;
        tableState.key = column.key;
        tableState.page = 0;
        drawRows();
      },
    }, title, arrow);
    const order = sorted ? (tableState.down ? "descending" : "ascending") : null;
    return make("th", { role: "columnheader", scope: "col", class: column.number ? "number" : null, "aria-sort": order }, button);
  }));
  const visible = rows.slice(start, start + tableState.size);
  const reachable = visible.includes(view.row) ? view.row : visible[0];
  const body = visible.map((i, k) => make("tr", {
    role: "row", "aria-rowindex": start + k + 2, "aria-label": rowName(columns, i),
    "data-row": i, "data-focus": `trial ${columns.trial[i]}`, tabindex: i === reachable ? "0" : "-1", "aria-selected": i === view.row ? "true" : "false",
    onclick: () => select(i), onkeydown: walk,
  }, COLUMNS.map((column) => make("td", { role: "gridcell", class: column.number ? "number" : null }, column.show(columns, i)))));
  const caption = make("caption", { class: "hidden" }, `Trials of ${study().name}`);
  $("table").setAttribute("aria-rowcount", rows.length + 1);
  fill($("table"), caption, make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, body));
  const none = rows.length ? "" : columns.trial.length ? "No trial passes the filter." : "No trial yet.";
  const range = rows.length ? `${whole(start + 1)} to ${whole(start + visible.length)} of ${whole(rows.length)}` : none;
  const turn = (by, text) => make("button", {
    type: "button", class: "quiet", "data-focus": text, disabled: tableState.page + by < 0 || tableState.page + by >= pages,
    onclick: () => { tableState.page += by; drawRows(); },
  }, text);
  const sizes = make("select", {
    "aria-label": "Rows a page", "data-focus": "size",
    onchange: (event) => { tableState.size = +event.target.value; tableState.page = 0; drawRows(); },
  }, [25, 100, 500].map((n) => make("option", { value: n, selected: n === tableState.size }, `${n} rows`)));
  fill($("pager"), turn(-1, "Previous"), make("span", { role: "status" }, range), turn(1, "Next"), sizes);
}

function walk(event) {
  const rows = shownRows();
  const here = rows.indexOf(+event.currentTarget.dataset.row);
  const steps = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + tableState.size,
    PageUp: here - tableState.size, Home: 0, End: rows.length - 1, Enter: here, " ": here };
  if (!(event.key in steps) || event.target !== event.currentTarget) return;
  event.preventDefault();
  select(rows[Math.max(0, Math.min(rows.length - 1, steps[event.key]))], true);
}

// The page that has a row, if the filter lets it through.
function turnTo(row) {
  const place = shownRows().indexOf(row);
  if (place >= 0) tableState.page = Math.floor(place / tableState.size);
}

// Turn to the page of the selected trial and mark it; `focus` follows the keyboard.
function showInTable(focus) {
  turnTo(view.row);
  drawRows();
  if (focus) document.querySelector(`#table tr[data-row="${view.row}"]`)?.focus();
}

function saveCsv() {
  const columns = study().columns;
  const titles = ["trial", "state", "quality", "stderr", "replicates", "rung", "params", "fraction",
    "seconds", "learning_rate", "weight_decay", "mergeable", "method", "failure", "summary"];
  const lines = shownRows().map((i) => titles.map((title) =>
    quoted(title === "state" ? STATES[columns.state[i]] : columns[title][i])).join(","));
  const text = [titles.join(","), ...lines].join("\r\n") + "\r\n";
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: `${study().name}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A text that a spreadsheet would take for a formula gets a quote in front.
function quoted(value) {
  if (value === null) return "";
  if (typeof value !== "string") return `${value}`;
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
